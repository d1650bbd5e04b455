// What peers may do to the broker: any frames from attached, remote and unknown peers, in any
// order, with time passing in between. Whatever came, once everybody has left nothing may remain:
// no call, no queued byte.

#include <google/protobuf/stubs/logging.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "broker/core.h"
#include "proto/wire/batch.h"
#include "proto/wire/frame.h"

namespace {

using runbus::broker::Core;
using runbus::broker::CoreOptions;
using runbus::broker::Now;
namespace v1 = runbus::v1;
namespace wire = runbus::wire;

class Reader {
 public:
  Reader(const std::uint8_t* data, std::size_t size)
      : rest_(reinterpret_cast<const char*>(data), size) {}
  bool empty() const { return rest_.empty(); }
  std::uint8_t byte() {
    if (rest_.empty()) {
      return 0;
    }
    const auto value = static_cast<std::uint8_t>(rest_.front());
    rest_.remove_prefix(1);
    return value;
  }
  std::string_view text() {
    const std::string_view taken = rest_.substr(0, byte());
    rest_.remove_prefix(std::min(taken.size(), rest_.size()));
    return taken;
  }

 private:
  std::string_view rest_;
};

// Everything the core sends must be readable.
class Checker : public runbus::broker::Output {
 public:
  void send(const std::string& /*key*/, v1::Kind kind, std::string_view /*call*/,
            zmq::message_t header, zmq::message_t /*body*/) override {
    v1::Header parsed;
    if (!wire::parse_header(wire::view(header), parsed).empty() || parsed.kind() != kind) {
      std::abort();
    }
  }
  void publish(std::string_view topic, std::string_view event) override {
    v1::Event parsed;
    if (!parsed.ParseFromArray(event.data(), static_cast<int>(event.size())) ||
        parsed.topic() != topic) {
      std::abort();
    }
  }
  void set_batch(const std::string& /*key*/, std::uint32_t /*messages*/) override {}
  void move(const std::string& /*from*/, const std::string& /*to*/) override {}
  void forget(const std::string& /*key*/) override {}
};

constexpr std::array<std::string_view, 5> kKeys{"g1", "g2", "w1", "w2", "r1"};
constexpr std::array<std::string_view, 4> kCalls{"c1", "c2", "c3", "c4"};

v1::Ready introduction(std::string_view id) {
  v1::Ready ready;
  ready.set_peer_id(std::string(id));
  ready.set_role(id.front() == 'g' ? v1::GATEWAY : v1::WORKER);
  if (ready.role() == v1::WORKER) {
    ready.set_node(id == "w1" ? "n1" : "n2");
    auto& offer = *ready.add_services();
    offer.set_service("test.Echo");
    offer.set_capacity(1);
    offer.add_methods("echo.say");
  }
  return ready;
}

// A header that is sound, so that inputs get behind the parser.
v1::Header sound_header(Reader& in) {
  v1::Header header;
  header.set_kind(static_cast<v1::Kind>(in.byte() % 15));
  const std::uint8_t choice = in.byte();
  header.set_call_id(std::string(kCalls[choice % kCalls.size()]));
  header.set_method((choice & 4U) != 0 ? "echo.say" : "bus.stats");
  header.set_origin(std::string(kKeys[(choice >> 3U) % 2]));
  header.set_session_id((choice & 16U) != 0 ? "s1" : "");
  header.set_worker_id((choice & 32U) != 0 ? "w1" : "");
  if ((choice & 64U) != 0) {
    header.mutable_resume()->set_sequence(1);
  }
  if ((choice & 128U) != 0) {
    header.set_deadline_ms(1'700'000'000'000 + in.byte());
  }
  return header;
}

void say(Core& core, std::string_view key, zmq::message_t header, std::string_view body, Now now) {
  zmq::message_t content(body.data(), body.size());
  core.on_message({key, key == "r1" ? "worker:far" : "", {}}, header, content, now);
}

void say_kind(Core& core, std::string_view key, v1::Kind kind, const std::string& body, Now now) {
  v1::Header header;
  header.set_kind(kind);
  say(core, key, wire::encode(header), body, now);
}

void step(Core& core, Reader& in, Now& now) {
  const std::uint8_t what = in.byte();
  const std::string_view key = kKeys[what % kKeys.size()];
  switch (what >> 5U) {
    case 0: {
      const std::string_view header = in.text();
      say(core, key, zmq::message_t(header.data(), header.size()), in.text(), now);
      break;
    }
    case 1: {
      v1::Ready ready = introduction(key);
      for (int calls = in.byte() % 3; calls > 0; --calls) {
        ready.add_calls(std::string(kCalls[in.byte() % kCalls.size()]));
      }
      // Now and then over a new connection.
      const std::string from = std::string(key) + ((what & 16U) != 0 ? "'" : "");
      say_kind(core, from, v1::READY, ready.SerializeAsString(), now);
      break;
    }
    case 2:
      now.steady_ms += in.byte() * 16U;
      now.wall_ms += 1;
      core.on_tick(now);
      break;
    case 3:
      (what & 16U) != 0 ? core.on_unreachable(key, now) : core.on_overflow(key, now);
      break;
    case 4:
      core.on_published(in.text(), in.text(), now);
      break;
    case 5:
      wire::read_batch(in.text(), [&](std::string_view header, std::string_view body) {
        say(core, key, zmq::message_t(header.data(), header.size()), body, now);
      });
      break;
    default:
      say(core, key, wire::encode(sound_header(in)), in.text(), now);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  spdlog::set_level(spdlog::level::off);
  google::protobuf::SetLogHandler(nullptr);
  CoreOptions options;
  options.queue_calls = 2;
  options.max_topics = 3;
  options.history_bytes = 1000;
  options.max_sessions = 2;
  Checker output;
  Now now{1'000'000, 1'700'000'000'000};
  Core core(options, "epoch", output, now);
  for (const std::string_view key : {kKeys[0], kKeys[2]}) {
    say_kind(core, key, v1::READY, introduction(key).SerializeAsString(), now);
  }
  for (Reader in(data, size); !in.empty();) {
    step(core, in, now);
  }
  for (const std::string_view key : kKeys) {
    say_kind(core, key, v1::GOODBYE, {}, now);
    say_kind(core, std::string(key) + "'", v1::GOODBYE, {}, now);
  }
  for (int ticks = 0; ticks < 40; ++ticks) {
    now.steady_ms += 250;
    core.on_tick(now);
  }
  const v1::StatsResponse stats = core.stats(now);
  if (stats.workers() + stats.gateways() + stats.calls_in_flight() + stats.queued_calls() != 0 ||
      stats.queued_bytes() != 0) {
    std::abort();
  }
  return 0;
}
