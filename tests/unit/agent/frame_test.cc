#include <gtest/gtest.h>

#include <string>

#include "proto/wire/agent_frame.h"
#include "runbus/v1/agent.pb.h"

namespace runbus::wire {
namespace {

std::string frame_of(const std::string& id, const std::string& payload) {
  v1::agent::AgentRequest request;
  request.mutable_detach()->set_execution_id(id);
  std::string out;
  EXPECT_TRUE(append_frame(out, request, payload));
  return out;
}

std::string header(std::size_t message, std::size_t payload) {
  std::string out;
  for (const std::size_t size : {message, payload}) {
    for (const int shift : {24, 16, 8, 0}) {
      out.push_back(static_cast<char>((size >> shift) & 0xff));
    }
  }
  return out;
}

TEST(AgentFrame, SurvivesEveryCut) {
  const std::string bytes =
      frame_of("one", "") + frame_of("two", std::string(300, 'p')) + frame_of("", "x");
  for (std::size_t step = 1; step <= bytes.size(); ++step) {
    FrameParser parser;
    FrameParser::Frame frame;
    std::vector<std::string> payloads;
    for (std::size_t at = 0; at < bytes.size(); at += step) {
      parser.feed(std::string_view(bytes).substr(at, step));
      while (parser.next(frame) == FrameParser::Status::kFrame) {
        payloads.emplace_back(frame.payload);
      }
    }
    ASSERT_EQ(payloads, (std::vector<std::string>{"", std::string(300, 'p'), "x"})) << step;
    EXPECT_EQ(parser.buffered(), 0U);
  }
}

TEST(AgentFrame, RefusesOversizeOnSightOfTheHeader) {
  FrameParser::Frame frame;
  FrameParser parser;
  parser.feed(header(kMaxAgentMessage + 1, 0));
  EXPECT_EQ(parser.next(frame), FrameParser::Status::kBroken);
  EXPECT_EQ(parser.error(), "message of 1048577 bytes, over 1 MiB");
  parser.feed(frame_of("one", ""));
  EXPECT_EQ(parser.next(frame), FrameParser::Status::kBroken);

  FrameParser other;
  other.feed(header(0, 0xffffffff));
  EXPECT_EQ(other.next(frame), FrameParser::Status::kBroken);
}

TEST(AgentFrame, TakesTheLargestFrameAndNoLarger) {
  v1::agent::AgentRequest request;
  std::string out = "before";
  EXPECT_FALSE(append_frame(out, request, std::string(kMaxAgentPayload + 1, 'x')));
  request.mutable_detach()->set_execution_id(std::string(kMaxAgentMessage, 'x'));
  EXPECT_FALSE(append_frame(out, request, ""));
  EXPECT_EQ(out, "before");

  FrameParser parser;
  FrameParser::Frame frame;
  parser.feed(header(kMaxAgentMessage, kMaxAgentPayload) +
              std::string(kMaxAgentMessage + kMaxAgentPayload, 'm'));
  ASSERT_EQ(parser.next(frame), FrameParser::Status::kFrame);
  EXPECT_EQ(frame.message.size(), kMaxAgentMessage);
  EXPECT_EQ(frame.payload.size(), kMaxAgentPayload);
}

}  // namespace
}  // namespace runbus::wire
