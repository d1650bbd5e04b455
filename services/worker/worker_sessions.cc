// What the other brokers have to be told: which sessions live on this node, and which calls are
// here that came by a broker that is gone.
#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "proto/support/id.h"
#include "proto/support/log.h"
#include "services/worker/worker_impl.h"

namespace runbus::worker {
namespace {

// Heartbeat has at most this many of each kind (bus.proto).
constexpr std::size_t kMaxPerHeartbeat = 1024;

// Copies as many as a heartbeat takes, the one used last first; how many.
std::size_t last_of(const std::vector<std::string>& all,
                    google::protobuf::RepeatedPtrField<std::string>& to) {
  const std::size_t count = std::min(all.size(), kMaxPerHeartbeat);
  to.Assign(all.rbegin(), all.rbegin() + static_cast<std::ptrdiff_t>(count));
  return count;
}

}  // namespace

// Their callers say them again to another broker, which must not give them to another worker.
void Worker::Impl::tell_of_lost_calls(std::size_t link) {
  const auto since = links[link].unsure_since.value_or(RecentCalls::Clock::now());
  std::vector<std::string> ids = recent.ids_since(since, link);
  for (std::string& call_id : recent_harmless.ids_since(since, link)) {
    ids.push_back(std::move(call_id));
  }
  for (const auto& [call_id, active] : calls) {
    if (!active.call->refused() && active.call->link() == link) {
      ids.push_back(call_id);
    }
  }
  for (std::size_t i = 0; i < links.size(); ++i) {
    if (i != link && links[i].bus && links[i].bus->connected()) {
      links[i].untold_calls.insert(links[i].untold_calls.end(), ids.begin(), ids.end());
    }
  }
  tell_brokers();
}

// The broker that sent a call knows where its session is; the others have to hear of it before that
// one dies.
void Worker::Impl::note_session(std::size_t link, const std::string& session_id) {
  if (!is_valid_id(session_id) || !sessions.use(session_id)) {
    return;
  }
  for (std::size_t i = 0; i < links.size(); ++i) {
    std::vector<std::string>& untold = links[i].untold;
    if (i == link) {
      continue;
    }
    if (untold.size() >= HeldSessions::kMax) {  // of a broker that is not there
      untold.erase(untold.begin(), untold.begin() + HeldSessions::kMax / 2);
    }
    untold.push_back(session_id);
  }
  tell_brokers();
}

void Worker::Impl::hold_session(const std::string& session_id) {
  if (is_valid_id(session_id)) {
    note_session(links.size(), session_id);
  }
}

// Soon, so that what comes in one burst goes out in one message.
void Worker::Impl::tell_brokers() {
  const bool something = std::any_of(links.begin(), links.end(), [](const Link& link) {
    return !(link.untold.empty() && link.untold_calls.empty()) && link.bus && link.bus->connected();
  });
  if (!something || std::exchange(telling, true)) {
    return;
  }
  boost::asio::post(loop, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) {
      return;
    }
    self->telling = false;
    for (Link& link : self->links) {
      while (!link.untold.empty() || !link.untold_calls.empty()) {
        v1::Heartbeat heartbeat;
        const auto told = last_of(link.untold, *heartbeat.mutable_sessions());
        const auto told_calls = last_of(link.untold_calls, *heartbeat.mutable_calls());
        v1::Header header;
        header.set_kind(v1::HEARTBEAT);
        if (!link.bus->send(header, heartbeat.SerializeAsString())) {
          break;  // a full outbox: with the next one
        }
        link.untold.resize(link.untold.size() - told);
        link.untold_calls.resize(link.untold_calls.size() - told_calls);
      }
    }
  });
}

}  // namespace runbus::worker
