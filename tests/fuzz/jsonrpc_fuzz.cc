// What a client may send, without a socket: the texts of one connection, a line each, while workers
// answer with whatever bytes follow a zero byte. Every frame that goes out must be JSON, and
// nothing may be left behind.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "gateway/rpc_session.h"
#include "proto/wire/transcoder.h"
#include "tests/unit/gateway/fake_bus.h"

namespace {

using namespace runbus;
using namespace runbus::gateway;

void check_frames(test::FakeSink& sink) {
  for (const std::string& frame : sink.take()) {
    rapidjson::Document document;
    wire::JsonLimits limits;
    limits.max_bytes = 256U << 20U;
    if (!wire::parse_json(frame, limits, document)) {
      std::abort();
    }
  }
}

void answer(test::FakeBus& bus, const test::Sent& call, std::string_view bytes) {
  bus.accept(call);
  for (std::uint64_t sequence = 1; sequence <= 2; ++sequence) {
    v1::Header header;
    header.set_kind(
        sequence == 1 && bus.method(call.header.method()).server_streaming ? v1::ITEM : v1::RESULT);
    header.set_call_id(call.header.call_id());
    header.set_sequence(sequence);
    zmq::message_t body(bytes.data(), bytes.size());
    bus.client.on_message(bus.port, header, body);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static test::FakeBus bus;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t zero = std::min(input.find('\0'), input.size());
  std::string_view texts = input.substr(0, zero);
  const std::string_view bytes = input.substr(std::min(zero + 1, input.size()));
  test::FakeSink sink;
  const auto session = bus.session(sink);
  while (!texts.empty()) {
    const std::size_t end = std::min(texts.find('\n'), texts.size());
    session->on_message(texts.substr(0, end));
    texts.remove_prefix(std::min(end + 1, texts.size()));
    check_frames(sink);
  }
  const auto sent = std::exchange(bus.port.sent, {});
  for (const test::Sent& one : sent) {
    if (one.header.kind() == v1::CALL && !one.header.method().starts_with("bus.")) {
      answer(bus, one, bytes);
    }
  }
  check_frames(sink);
  session->close();
  if (session->calls_in_flight() != 0) {
    std::abort();
  }
  bus.port.sent.clear();
  bus.history.asked.clear();
  bus.history.published.clear();
  bus.io.restart();
  bus.io.poll();
  return 0;
}
