// One publisher, several subscribers: deliveries a second.
#include <list>
#include <stdexcept>

#include "tools/runbus/bench_rig.h"
#include "tools/runbus/commands.h"

namespace runbus::cli {
namespace {

constexpr std::chrono::seconds kBound{60};
constexpr int kSubscribers = 10;
constexpr int kInFlight = 32;

}  // namespace

void bench_events(Rig& rig) {
  boost::asio::io_context io(1);
  int received = 0;
  std::list<Client> clients;
  for (int i = 0; i <= kSubscribers; ++i) {
    Client::Events events;
    events.on_notification = [&received](std::string_view method, const rapidjson::Value&) {
      received += method == "events.event" ? 1 : 0;
    };
    Client& client = clients.emplace_back(io, std::move(events));
    if (const Result<void> connected = client.connect(rig.gateway, kBound); !connected) {
      throw std::runtime_error(describe(connected.error()));
    }
    if (i > 0) {  // the first is the publisher
      const auto subscribed =
          client.call("events.subscribe", R"({"topics":["user.bench"]})", kBound);
      if (!subscribed) {
        throw std::runtime_error("events.subscribe: " + describe(subscribed.error()));
      }
    }
  }
  const int count = rig.rounds(3000, 100);
  const auto start = BenchClock::now();
  measure(io, kInFlight, count, [&](std::function<void(const Error*)> done) {
    clients.front().call("events.publish", R"({"topic":"user.bench","data":{"n":1}})",
                         [done = std::move(done)](const Result<const rapidjson::Value*>& reply) {
                           if (reply) {
                             done(nullptr);
                           } else {
                             const Error error = reply.error();
                             done(&error);
                           }
                         });
  });
  const int expected = count * kSubscribers;
  if (!run_until(io, BenchClock::now() + kBound, [&] { return received >= expected; })) {
    throw std::runtime_error(std::to_string(received) + " of " + std::to_string(expected) +
                             " deliveries arrived");
  }
  const double rate = expected / seconds_since(start);
  const Rate bare = measure_bare_websocket(rig, 64, rig.rounds(50'000, 3000), 200);
  rig.report.add({.what = "events, 10 subscribers",
                  .value = rate,
                  .unit = "deliveries/s",
                  .baseline_name = "frames/s bare WebSocket echo, 64 in flight",
                  .baseline = bare.per_second,
                  .budget = {},
                  .met = {}});
}

}  // namespace runbus::cli
