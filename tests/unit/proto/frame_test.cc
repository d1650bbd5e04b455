#include "proto/wire/frame.h"

#include <gtest/gtest.h>

#include "tests/unit/proto/bus_fixture.h"

namespace runbus::wire {
namespace {

TEST(BusFrame, ReadsASoundHeader) {
  v1::Header header = make_header(v1::CALL, "call-1");
  header.set_method("execute.code");
  v1::Header parsed;
  EXPECT_EQ(parse_header(header.SerializeAsString(), parsed), "");
  EXPECT_EQ(parsed.method(), "execute.code");
}

TEST(BusFrame, NamesWhatIsWrongWithAHeader) {
  const auto problem = [](const v1::Header& header) {
    v1::Header parsed;
    return std::string(parse_header(header.SerializeAsString(), parsed));
  };
  v1::Header parsed;
  EXPECT_EQ(parse_header(std::string(kMaxHeaderBytes + 1, '\n'), parsed), "header_size");
  EXPECT_EQ(parse_header("\xff", parsed), "header_syntax");
  EXPECT_EQ(problem(v1::Header()), "header_kind");
  v1::Header strange;
  strange.set_kind(static_cast<v1::Kind>(99));
  EXPECT_EQ(problem(strange), "header_kind");
  EXPECT_EQ(problem(make_header(v1::RESULT)), "header_id");
  EXPECT_EQ(problem(make_header(v1::RESULT, "a/b")), "header_id");
  EXPECT_EQ(problem(make_header(v1::RESULT, std::string(129, 'a'))), "header_id");
  EXPECT_EQ(problem(make_header(v1::CALL, "c")), "header_text") << "a CALL without a method";
  v1::Header header = make_header(v1::HEARTBEAT);
  EXPECT_EQ(problem(header), "");
  header.set_origin("not an id");
  EXPECT_EQ(problem(header), "header_id");
  header.set_origin("");
  header.set_principal(std::string(2000, 'p'));
  EXPECT_EQ(problem(header), "header_text");
}

TEST(BusFrame, KnowsTopics) {
  for (const char* good : {"user.a", "code_execution.started", "a", "user.A-b_1.x"}) {
    EXPECT_TRUE(is_valid_topic(good)) << good;
  }
  for (const char* bad : {"", ".", "a.", ".a", "a..b", "a b", "a/b", "\xc3\xa9"}) {
    EXPECT_FALSE(is_valid_topic(bad)) << bad;
  }
}
}  // namespace
}  // namespace runbus::wire
