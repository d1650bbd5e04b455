// SessionManager's part of pausing: who decides that a session is idle. The state on disk says
// whether it is paused, so any worker of the node may pause or resume it.
#include <algorithm>
#include <utility>

#include "proto/support/log.h"
#include "services/session/session_manager.h"

namespace runbus::session {
namespace {

constexpr std::chrono::milliseconds kShortestLook{100};
constexpr std::chrono::milliseconds kLongestLook{15'000};
// After a sandbox that could not be frozen.
constexpr std::chrono::minutes kPauseAgain{5};

std::uint64_t now_us() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

}  // namespace

void SessionManager::looked(const Session& session) {
  session.marks().clear(SandboxMarks::Mark::kLooked);
}

void SessionManager::watch_idle() {
  // Several times within pause_after, so that what a worker holds is marked in time.
  idle_timer_.expires_after(std::clamp(options_.pause_after / 4, kShortestLook, kLongestLook));
  idle_timer_.async_wait(
      [this, alive = std::weak_ptr(alive_)](const boost::system::error_code& error) {
        if (error || !alive.lock()) {
          return;
        }
        for (auto& [id, slot] : slots_) {
          if (slot.state == Slot::State::kOpen && slot.session->agent_->connected()) {
            look_whether_idle(id, slot);
          }
        }
        watch_idle();
      });
}

void SessionManager::look_whether_idle(const std::string& session_id, Slot& slot) {
  const SandboxMarks marks = slot.session->marks();
  if (slot.session.use_count() > 1) {  // one reference is the slot's own
    marks.touch(SandboxMarks::Mark::kHeld);
    return;
  }
  const auto idle_us = static_cast<std::uint64_t>(options_.pause_after.count()) * 1000;
  const std::uint64_t since = now_us() - idle_us;
  if (slot.pausing || std::chrono::steady_clock::now() < slot.pause_again ||
      marks.last_used_us() > since || marks.is_paused()) {
    return;
  }
  // What a worker that has died started may still run.
  slot.pausing = true;
  agent_v1::AgentRequest request;
  request.mutable_list();
  slot.session->agent_->request(
      std::move(request), {},
      [this, alive = std::weak_ptr(alive_), session_id,
       since](const Result<agent_v1::AgentReply>& reply) {
        if (!alive.lock()) {
          return;
        }
        const bool idle =
            reply && reply->has_listing() &&
            std::none_of(reply->listing().entries().begin(), reply->listing().entries().end(),
                         [](const auto& entry) { return entry.running(); });
        if (idle) {
          pause(session_id, since);
        } else if (const auto found = slots_.find(session_id); found != slots_.end()) {
          found->second.pausing = false;
        }
      });
}

void SessionManager::pause(const std::string& session_id, std::uint64_t since_us) {
  on_pool([this, session_id, since_us] { return keeper_.pause(session_id, since_us); },
          [this, session_id](const Result<bool>& paused) {
            const auto found = slots_.find(session_id);
            if (found != slots_.end()) {
              found->second.pausing = false;
            }
            if (!paused) {
              spdlog::warn("pausing session {}: {}", printable(session_id),
                           to_string(paused.error()));
              if (found != slots_.end()) {
                found->second.pause_again = std::chrono::steady_clock::now() + kPauseAgain;
              }
            } else if (*paused && options_.on_paused) {
              options_.on_paused(session_id);
            }
          });
}

}  // namespace runbus::session
