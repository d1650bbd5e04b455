// Which sessions live on this node, and who has to be told.
#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "proto/support/id.h"
#include "proto/support/log.h"
#include "services/worker/worker_impl.h"

namespace runbus::worker {
namespace {

// Heartbeat.sessions has at most this many (bus.proto).
constexpr std::size_t kMaxPerHeartbeat = 1024;

}  // namespace

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
  tell_sessions();
}

void Worker::Impl::hold_session(const std::string& session_id) {
  if (is_valid_id(session_id)) {
    note_session(links.size(), session_id);
  }
}

// Soon, so that what comes in one burst goes out in one message.
void Worker::Impl::tell_sessions() {
  const bool something = std::any_of(links.begin(), links.end(), [](const Link& link) {
    return !link.untold.empty() && link.bus && link.bus->connected();
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
      std::vector<std::string>& untold = link.untold;
      while (!untold.empty()) {
        const auto count = static_cast<std::ptrdiff_t>(std::min(untold.size(), kMaxPerHeartbeat));
        v1::Heartbeat heartbeat;
        // The one used last comes first.
        heartbeat.mutable_sessions()->Assign(untold.rbegin(), untold.rbegin() + count);
        v1::Header header;
        header.set_kind(v1::HEARTBEAT);
        if (!link.bus->send(header, heartbeat.SerializeAsString())) {
          break;  // a full outbox: with the next one
        }
        untold.resize(untold.size() - static_cast<std::size_t>(count));
      }
    }
  });
}

}  // namespace runbus::worker
