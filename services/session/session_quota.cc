// SessionManager's part of a soft quota: workspaces that are in use are measured again and again.
// What runs in one that is too large is ended, and nothing new is started in it.
#include <utility>

#include "proto/support/log.h"
#include "services/session/session_manager.h"
#include "services/session/workspace_size.h"

namespace runbus::session {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kInterval{300};
// Of the time, what measuring a session may take.
constexpr int kShare = 10;

void end_runs(AgentClient& agent, const agent_v1::Listing& listing) {
  for (const auto& entry : listing.entries()) {
    if (entry.running()) {
      agent_v1::AgentRequest request;
      request.mutable_kill()->set_execution_id(entry.execution_id());
      request.mutable_kill()->set_reason("quota");
      request.mutable_kill()->set_limit("disk");
      agent.request(std::move(request), {}, nullptr);
    }
  }
}

}  // namespace

void SessionManager::watch_quotas() {
  quota_timer_.expires_after(kInterval);
  quota_timer_.async_wait(
      [this, alive = std::weak_ptr(alive_)](const boost::system::error_code& error) {
        if (error || !alive.lock()) {
          return;
        }
        for (auto& [id, slot] : slots_) {
          if (slot.state == Slot::State::kOpen) {
            measure(id, slot);
          }
        }
        watch_quotas();
      });
}

void SessionManager::measure(const std::string& session_id, Slot& slot) {
  const bool in_use = slot.session.use_count() > 1;  // one reference is the slot's own
  if (slot.measuring || Clock::now() < slot.measure_again || (!in_use && !slot.unmeasured)) {
    slot.unmeasured = slot.unmeasured || in_use;
    return;
  }
  slot.measuring = true;
  slot.unmeasured = in_use;  // once more after its last use
  const SandboxRecord& record = slot.session->record_;
  on_pool(
      [path = record.dir + "/workspace", quota = record.limits.disk] {
        const auto begun = Clock::now();
        auto size = measure_workspace(path, quota);
        return std::pair(std::move(size), Clock::now() - begun);
      },
      [this, session_id, record](const std::pair<Result<WorkspaceSize>, Clock::duration>& result) {
        // One that cannot be opened is being removed.
        measured(session_id, record, result.first && result.first->over, result.second);
      });
}

void SessionManager::measured(const std::string& session_id, const SandboxRecord& record, bool over,
                              Clock::duration took) {
  const auto found = slots_.find(session_id);
  if (found == slots_.end() || !found->second.session ||
      found->second.session->record_.created_ms != record.created_ms) {
    return;
  }
  Slot& slot = found->second;
  slot.measuring = false;
  slot.measure_again = Clock::now() + kShare * took;
  if (over && !slot.session->over_quota_) {
    spdlog::info("session {}: the workspace is over its quota", printable(session_id));
  }
  slot.session->over_quota_ = over;
  if (!over) {
    return;
  }
  agent_v1::AgentRequest request;
  request.mutable_list();
  slot.session->agent_->request(
      std::move(request), {},
      [agent = std::weak_ptr(slot.session->agent_)](const Result<agent_v1::AgentReply>& reply) {
        const auto client = agent.lock();
        if (client && reply && reply->has_listing()) {
          end_runs(*client, reply->listing());
        }
      });
}

}  // namespace runbus::session
