#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "services/worker/call_state.h"

namespace runbus::worker {

// The handler's end of a CallState; the last one to go fails a call that has not ended.
class CallHandle final : public Call {
 public:
  explicit CallHandle(std::shared_ptr<CallState> state);
  ~CallHandle() override;
  CallHandle(const CallHandle&) = delete;
  CallHandle& operator=(const CallHandle&) = delete;

  const std::string& id() const override { return state_->header().call_id(); }
  const std::string& method() const override { return state_->header().method(); }
  const std::string& session_id() const override { return state_->header().session_id(); }
  const std::string& principal() const override { return state_->header().principal(); }
  std::chrono::system_clock::time_point deadline() const override;
  const v1::Resume* resume() const override;
  void finish(const google::protobuf::Message& response) override { state_->finish(response); }
  void fail(Error error) override { state_->fail(std::move(error)); }
  bool ended() const override { return state_->ended(); }
  void send(const google::protobuf::Message& item, std::uint64_t offset) override {
    state_->send(item, offset);
  }
  std::uint64_t credit() const override { return state_->credit(); }
  void on_credit(std::function<void()> callback) override {
    state_->on_credit(std::move(callback));
  }
  void on_cancel(std::function<void(Error)> callback) override {
    state_->on_cancel(std::move(callback));
  }
  void on_input(std::function<void(const google::protobuf::Message&)> callback) override {
    state_->on_input(std::move(callback));
  }

 private:
  std::shared_ptr<CallState> state_;
};

}  // namespace runbus::worker
