#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "proto/wire/agent_frame.h"
#include "runbus/v1/agent.pb.h"

namespace {

using runbus::wire::FrameParser;

// What the parser makes of `bytes` when they come in pieces of `step`.
std::vector<std::string> parse(std::string_view bytes, std::size_t step, bool& broken) {
  FrameParser parser;
  FrameParser::Frame frame;
  std::vector<std::string> result;
  broken = false;
  for (std::size_t at = 0; at < bytes.size() && !broken; at += step) {
    parser.feed(bytes.substr(at, step));
    FrameParser::Status status = FrameParser::Status::kNeedMore;
    while ((status = parser.next(frame)) == FrameParser::Status::kFrame) {
      runbus::v1::agent::AgentRequest request;
      request.ParseFromArray(frame.message.data(), static_cast<int>(frame.message.size()));
      result.push_back(std::string(frame.message) + '|' + std::string(frame.payload));
    }
    broken = status == FrameParser::Status::kBroken;
  }
  return result;
}

}  // namespace

// However the bytes are cut, the same frames must come out.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) {
    return 0;
  }
  const std::size_t step = data[0] % 16U + 1;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  bool whole_broken = false;
  bool cut_broken = false;
  const auto whole = parse(bytes, bytes.size() + 1, whole_broken);
  const auto cut = parse(bytes, step, cut_broken);
  if (whole != cut || whole_broken != cut_broken) {
    std::abort();
  }
  return 0;
}
