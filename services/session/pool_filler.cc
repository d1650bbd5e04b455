#include "services/session/pool_filler.h"

#include <boost/asio/post.hpp>
#include <utility>

#include "proto/support/log.h"

namespace runbus::session {
namespace {

namespace asio = boost::asio;

// Between two sandboxes of the pool, and after a session took one: its first call is under way.
constexpr std::chrono::milliseconds kPause{250};

}  // namespace

PoolFiller::PoolFiller(asio::io_context& io, SandboxKeeper& keeper, PoolOptions options,
                       std::chrono::milliseconds interval,
                       std::function<agent_v1::AgentRequest()> configuration)
    : io_(io),
      keeper_(keeper),
      options_(std::move(options)),
      interval_(interval),
      configuration_(std::move(configuration)),
      timer_(io) {}

PoolFiller::~PoolFiller() {
  alive_.reset();
  thread_.join();
  for (const auto& [dir, member] : members_) {
    member->agent->close();
  }
}

void PoolFiller::look() {
  timer_.cancel();
  if (looking_) {
    again_ = true;
    return;
  }
  looking_ = true;
  const bool tidy = std::exchange(tidy_, false);
  asio::post(thread_, [this, alive = std::weak_ptr(alive_), guard = asio::make_work_guard(io_),
                       tidy]() mutable {
    auto result = keeper_.fill_pool(options_.session, options_.size, tidy);
    asio::post(io_, [this, alive = std::move(alive), result = std::move(result)] {
      if (alive.lock()) {
        looked(result);
      }
    });
  });
}

void PoolFiller::taken() {
  if (!looking_) {
    look_in(kPause);
  } else {
    again_ = true;
  }
}

void PoolFiller::look_in(std::chrono::milliseconds delay) {
  timer_.expires_after(delay);
  timer_.async_wait([this, alive = std::weak_ptr(alive_)](const boost::system::error_code& error) {
    if (!error && alive.lock()) {
      look();
    }
  });
}

void PoolFiller::looked(const Result<SandboxKeeper::Pooled>& result) {
  looking_ = false;
  const bool again = std::exchange(again_, false);
  if (!result) {
    spdlog::warn("a sandbox for the pool: {}", to_string(result.error()));
    look_in(interval_);
    return;
  }
  std::map<std::string, std::shared_ptr<Connected>> gone = std::exchange(members_, {});
  for (const SandboxRecord& record : result->ready) {
    if (auto known = gone.extract(record.dir)) {
      configure(*known.mapped());
      members_.insert(std::move(known));
    } else {
      connect(record.dir);
    }
  }
  for (const auto& [dir, member] : gone) {
    member->agent->close();  // another worker's session has it, or it has ended
  }
  look_in(again || result->ready.size() < options_.size ? kPause : interval_);
}

std::optional<PoolFiller::Connected> PoolFiller::take(const std::string& dir) {
  const auto known = members_.find(dir);
  // One that is still connecting stays, for the next look to close.
  if (known == members_.end() || !known->second->agent->connected()) {
    return std::nullopt;
  }
  Connected taken = std::move(*known->second);
  members_.erase(known);
  return taken;
}

void PoolFiller::connect(const std::string& dir) {
  // The connection is held by members_ alone, so that none outlives the filler.
  const auto member = std::make_shared<Connected>();
  members_[dir] = member;
  const std::weak_ptr<Connected> weak = member;
  member->agent = AgentClient::connect(io_.get_executor(), dir + "/agent.sock",
                                       [this, weak](const Result<void>& ready) {
                                         const auto connected = weak.lock();
                                         if (!connected) {
                                           return;
                                         }
                                         if (!ready) {
                                           forget(connected.get());  // looked at the next time
                                           return;
                                         }
                                         connected->agent->on_closed([this, weak] {
                                           if (const auto closed = weak.lock()) {
                                             forget(closed.get());
                                           }
                                         });
                                         configure(*connected);
                                       });
}

void PoolFiller::configure(Connected& member) const {
  agent_v1::AgentRequest request = configuration_();
  std::string text = request.SerializeAsString();
  if (text != member.configuration && member.agent->connected()) {
    member.configuration = std::move(text);
    member.agent->request(std::move(request), {}, nullptr);
  }
}

void PoolFiller::forget(const Connected* member) {
  std::erase_if(members_, [member](const auto& each) { return each.second.get() == member; });
}

}  // namespace runbus::session
