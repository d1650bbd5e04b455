#include "services/worker/call_handle.h"

#include <exception>

#include "proto/support/log.h"

namespace runbus::worker {

CallHandle::CallHandle(std::shared_ptr<CallState> state) : state_(std::move(state)) {}

CallHandle::~CallHandle() {
  if (state_->ended()) {
    return;
  }
  try {
    state_->fail(internal_error("the handler let go of the call without ending it"));
  } catch (const std::exception& exception) {
    spdlog::error("call {}: {}", printable(state_->header().call_id()), exception.what());
  }
}

std::chrono::system_clock::time_point CallHandle::deadline() const {
  return deadline_of(state_->header());
}

const v1::Resume* CallHandle::resume() const {
  return state_->header().has_resume() ? &state_->header().resume() : nullptr;
}

}  // namespace runbus::worker
