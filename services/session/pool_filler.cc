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
  for (const auto& client : clients_) {
    client->close();
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
  for (const SandboxRecord& record : result->ready) {
    configure(record);
  }
  look_in(again || result->ready.size() < options_.size ? kPause : interval_);
}

void PoolFiller::configure(const SandboxRecord& record) {
  // The connection is held by clients_ alone, so that none outlives the filler.
  auto slot = std::make_shared<std::weak_ptr<AgentClient>>();
  const auto done = [this, alive = std::weak_ptr(alive_), slot] {
    const auto client = slot->lock();
    if (client) {
      client->close();
    }
    if (alive.lock()) {
      clients_.erase(client);
    }
  };
  auto client = AgentClient::connect(
      io_.get_executor(), record.dir + "/agent.sock",
      [this, alive = std::weak_ptr(alive_), slot, done](const Result<void>& ready) {
        const auto connected = slot->lock();
        // One that was taken, or has ended, is looked at the next time.
        if (!ready || !connected || !alive.lock()) {
          done();
          return;
        }
        connected->request(configuration_(), {},
                           [done](const Result<agent_v1::AgentReply>&) { done(); });
      });
  *slot = client;
  clients_.insert(std::move(client));
}

}  // namespace runbus::session
