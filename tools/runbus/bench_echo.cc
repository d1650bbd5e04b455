// Echo through gateway, broker and worker, beside a bare Beast WebSocket echo and a bare ZeroMQ
// echo through a ROUTER/DEALER proxy; and the processes at the other end of those.
#include <poll.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <deque>
#include <filesystem>
#include <stdexcept>
#include <zmq.hpp>

#include "tools/runbus/bench.h"
#include "tools/runbus/bench_rig.h"
#include "tools/runbus/commands.h"
#include "tools/runbus/files.h"
#include "tools/runbus/text_server.h"

namespace runbus::cli {
namespace {

using std::chrono::seconds;

constexpr seconds kHelperBound{20};
constexpr int kInFlight = 64;
// Of ours and of the baseline: the first of them are slower.
constexpr int kManyCalls = 40'000;
constexpr int kFewCalls = 10'000;
constexpr int kReceiveBoundMs = 20'000;
const std::string kPayload(64, 'x');

Helper start_peer(std::vector<std::string> arguments) {
  std::vector<std::string> argv{"/proc/self/exe", "bench-peer"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  Result<Helper> helper = Helper::start(
      {.name = arguments.front(), .argv = std::move(argv), .reports_ready = true}, kHelperBound);
  if (!helper) {
    throw std::runtime_error(helper.error().detail);
  }
  return std::move(*helper);
}

struct BareZmq {
  double p50 = 0;
  double per_second = 0;
};

void receive(zmq::socket_t& socket) {
  zmq::message_t message;
  if (!socket.recv(message)) {
    throw std::runtime_error("the bare ZeroMQ echo did not answer");
  }
}

BareZmq measure_bare_zmq(const Rig& rig) {
  const std::string front = "ipc://" + rig.scratch + "/front";
  const std::string back = "ipc://" + rig.scratch + "/back";
  const Helper proxy = start_peer({"zmq-proxy", front, back});
  const Helper echo = start_peer({"zmq-echo", back});
  zmq::context_t context(1);
  zmq::socket_t socket(context, zmq::socket_type::dealer);
  socket.set(zmq::sockopt::linger, 0);
  socket.set(zmq::sockopt::rcvtimeo, kReceiveBoundMs);
  socket.connect(front);

  const auto exchange = [&](int in_flight, int count, std::vector<double>* samples) {
    std::deque<BenchClock::time_point> begun;
    int sent = 0;
    for (int received = 0; received < count;) {
      while (sent < count && static_cast<int>(begun.size()) < in_flight) {
        begun.push_back(BenchClock::now());
        socket.send(zmq::buffer(kPayload), zmq::send_flags::none);
        ++sent;
      }
      receive(socket);
      ++received;
      samples->push_back(seconds_since(begun.front()));
      begun.pop_front();
    }
  };
  std::vector<double> samples;
  exchange(1, rig.rounds(200, 50), &samples);  // connected and warm
  samples.clear();
  exchange(1, rig.rounds(1000, 300), &samples);
  BareZmq result;
  result.p50 = percentile(samples, 0.5);
  samples.clear();
  const int count = rig.rounds(kManyCalls, kFewCalls);
  const auto start = BenchClock::now();
  exchange(kInFlight, count, &samples);
  result.per_second = count / seconds_since(start);
  return result;
}

}  // namespace

Rate measure_bare_websocket(const Rig& rig, int in_flight, int count, std::size_t bytes) {
  const Helper server = start_peer({"ws-echo"});
  GatewayAddress address{.host = "127.0.0.1", .port = server.line(), .token = {}};
  std::deque<std::function<void(const Error*)>> waiting;
  Line line(address,
            {.on_notification = {}, .on_closed = {}, .on_frame = [&waiting](std::string_view) {
               const auto done = std::move(waiting.front());
               waiting.pop_front();
               done(nullptr);
               return true;
             }});
  const std::string frame(bytes, 'x');
  const auto begin = [&](std::function<void(const Error*)> done) {
    waiting.push_back(std::move(done));
    line.client->send(frame);
  };
  measure(line.io, 1, rig.rounds(200, 20), begin);
  return measure(line.io, in_flight, count, begin);
}

namespace {

// One of each for every round.
struct EchoFigures {
  std::vector<double> p50, p99, per_second, websocket_p50, websocket_p99, zmq_p50, zmq_per_second;
};

double median(std::vector<double> rounds) { return percentile(rounds, 0.5); }

void report(Rig& rig, const EchoFigures& figures) {
  const double p50 = median(figures.p50);
  const double parts = median(figures.websocket_p50) + median(figures.zmq_p50);
  const double per_second = median(figures.per_second);
  const double bare = median(figures.zmq_per_second);
  rig.report.add({.what = "echo, 1 in flight, p50",
                  .value = p50 * 1e6,
                  .unit = "us",
                  .baseline_name = "us bare WebSocket + bare ZeroMQ proxy",
                  .baseline = parts * 1e6,
                  .budget = "<= 1.3 x",
                  .met = p50 <= 1.3 * parts});
  rig.report.add({.what = "echo, 1 in flight, p99",
                  .value = median(figures.p99) * 1e6,
                  .unit = "us",
                  .baseline_name = "us bare WebSocket p99",
                  .baseline = median(figures.websocket_p99) * 1e6,
                  .budget = {},
                  .met = {}});
  rig.report.add({.what = "echo, 64 in flight",
                  .value = per_second,
                  .unit = "calls/s",
                  .baseline_name = "calls/s bare ZeroMQ proxy",
                  .baseline = bare,
                  .budget = ">= 0.35 x",
                  .met = per_second >= 0.35 * bare});
}

}  // namespace

// Rounds of short measurements by turns, and the median of each: where the kernel happens to put
// two processes that talk to each other makes a factor of seven for the bare WebSocket, and stays
// so as long as they live.
void bench_echo(Rig& rig) {
  const std::string worker = program_directory() + "/runbus-example-echo";
  if (rig.broker.empty() || !std::filesystem::exists(worker)) {
    rig.report.skip("echo", rig.broker.empty()
                                ? "the broker of --url is not known, so no echo worker can attach"
                                : worker + " is not built (target runbus-example-echo)");
    return;
  }
  Result<Helper> echo = Helper::start(
      {.name = "the echo worker", .argv = {worker, "--broker", rig.broker}, .reports_ready = true},
      kHelperBound);
  if (!echo) {
    throw std::runtime_error(echo.error().detail);
  }
  const std::string params = "{\"text\":\"" + kPayload + "\"}";
  Line line(rig.gateway);
  // The gateway learns of the new service a moment after the worker is attached.
  const auto deadline = BenchClock::now() + kHelperBound;
  while (!line.client->call("echo.say", params, kHelperBound)) {
    if (BenchClock::now() > deadline) {
      throw std::runtime_error("echo.say is not known to the gateway");
    }
  }
  EchoFigures figures;
  for (int round = 0; round < rig.rounds(7, 1); ++round) {
    measure_calls(line, "echo.say", params, 1, rig.rounds(100, 50));
    const Rate alone = measure_calls(line, "echo.say", params, 1, rig.rounds(1000, 300));
    const Rate many =
        measure_calls(line, "echo.say", params, kInFlight, rig.rounds(kManyCalls, kFewCalls));
    const Rate websocket =
        measure_bare_websocket(rig, 1, rig.rounds(1000, 300), params.size() + 60);
    const BareZmq zmq = measure_bare_zmq(rig);
    figures.p50.push_back(alone.p50);
    figures.p99.push_back(alone.p99);
    figures.per_second.push_back(many.per_second);
    figures.websocket_p50.push_back(websocket.p50);
    figures.websocket_p99.push_back(websocket.p99);
    figures.zmq_p50.push_back(zmq.p50);
    figures.zmq_per_second.push_back(zmq.per_second);
  }
  report(rig, figures);
}

namespace {

void say_ready(const BenchPeerOptions& options, const std::string& line) {
  if (options.ready_fd >= 0 &&
      ::write(options.ready_fd, (line + "\n").c_str(), line.size() + 1) < 0) {
    throw std::runtime_error("nobody waits for this");
  }
}

int serve_websocket_echo(const BenchPeerOptions& options) {
  boost::asio::io_context io(1);
  const TextServer server(io,
                          {.on_text = [](const std::shared_ptr<TextServer::Peer>& peer,
                                         std::string_view text) { peer->send(std::string(text)); },
                           .admit = {}});
  say_ready(options, std::to_string(server.port()));
  io.run();
  return 0;
}

int serve_zmq_proxy(const BenchPeerOptions& options) {
  zmq::context_t context(1);
  zmq::socket_t front(context, zmq::socket_type::router);
  zmq::socket_t back(context, zmq::socket_type::dealer);
  front.bind(options.endpoints.at(0));
  back.bind(options.endpoints.at(1));
  say_ready(options, "ready");
  zmq::proxy(front, back);
  return 0;
}

int serve_zmq_echo(const BenchPeerOptions& options) {
  zmq::context_t context(1);
  zmq::socket_t socket(context, zmq::socket_type::dealer);
  socket.connect(options.endpoints.at(0));
  say_ready(options, "ready");
  for (;;) {
    zmq::message_t message;
    if (!socket.recv(message)) {
      return 1;
    }
    const bool more = message.more();
    socket.send(message, more ? zmq::send_flags::sndmore : zmq::send_flags::none);
  }
}

}  // namespace

int bench_peer(const BenchPeerOptions& options) {
  if (options.kind == "ws-echo") {
    return serve_websocket_echo(options);
  }
  if (options.kind == "zmq-proxy" && options.endpoints.size() == 2) {
    return serve_zmq_proxy(options);
  }
  if (options.kind == "zmq-echo" && options.endpoints.size() == 1) {
    return serve_zmq_echo(options);
  }
  return complain(failure("bench-peer: unknown kind " + options.kind), 2);
}

}  // namespace runbus::cli
