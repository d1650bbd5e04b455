// SessionManager's part of what agents are told: what to keep, for how long, and how much of it.
#include <algorithm>
#include <bit>

#include "proto/support/log.h"
#include "services/session/session_manager.h"

namespace runbus::session {

agent_v1::AgentRequest SessionManager::configuration() const {
  agent_v1::AgentRequest request;
  auto* configure = request.mutable_configure();
  configure->set_destroy_after_ms(static_cast<std::uint64_t>(options_.destroy_after.count()));
  configure->set_result_ttl_ms(static_cast<std::uint64_t>(options_.result_ttl.count()));
  configure->set_log_space(log_share_);
  if (options_.warm) {
    for (agent_v1::Warm& warm : options_.warm()) {
      *configure->add_warm() = std::move(warm);
    }
  }
  return request;
}

void SessionManager::configure(Session& session) {
  agent_v1::AgentRequest request = configuration();
  std::string text = request.SerializeAsString();
  if (text == session.configuration_) {
    return;
  }
  session.configuration_ = std::move(text);
  session.agent_->request(std::move(request), {}, [](Result<agent_v1::AgentReply> reply) {
    if (!reply && reply.error().code != ErrorCode::kConnection) {
      spdlog::warn("configuring an agent: {}", to_string(reply.error()));
    }
  });
}

void SessionManager::configure_all() {
  for (const auto& [id, slot] : slots_) {
    if (slot.state == Slot::State::kOpen && slot.session->agent_->connected()) {
      configure(*slot.session);
    }
  }
}

void SessionManager::reconfigure() {
  configure_all();
  if (filler_) {
    filler_->look();
  }
}

// In steps of two, so that agents are seldom told. Never 0, which to an agent is no bound.
void SessionManager::share_log_space(std::size_t sandboxes) {
  const std::uint64_t share = std::max<std::uint64_t>(
      options_.node_log_space / std::bit_ceil(std::max<std::uint64_t>(sandboxes, 1)), 1);
  if (share != log_share_) {
    log_share_ = share;
    configure_all();
  }
}

}  // namespace runbus::session
