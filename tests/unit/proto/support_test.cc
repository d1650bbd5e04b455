#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <csignal>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "proto/support/error.h"
#include "proto/support/fifo.h"
#include "proto/support/id.h"
#include "proto/support/termination_signals.h"
#include "proto/support/unique_fd.h"

namespace runbus {
namespace {

TEST(Uuid, IsVersion7InCanonicalForm) {
  const std::string id = make_uuid();
  ASSERT_EQ(id.size(), 36U);
  for (const std::size_t dash : {8U, 13U, 18U, 23U}) {
    EXPECT_EQ(id[dash], '-');
  }
  EXPECT_EQ(id[14], '7');
  EXPECT_NE(std::string("89ab").find(id[19]), std::string::npos);
  EXPECT_EQ(id.find_first_not_of("0123456789abcdef-"), std::string::npos);
  EXPECT_TRUE(is_valid_id(id));
}

TEST(Uuid, DiffersEachTimeAndStartsWithTheTime) {
  std::set<std::string> seen;
  std::string before = make_uuid().substr(0, 13);
  for (int i = 0; i < 1000; ++i) {
    const std::string id = make_uuid();
    EXPECT_TRUE(seen.insert(id).second);
    EXPECT_GE(id.substr(0, 13), before);
    before = id.substr(0, 13);
  }
}

TEST(TerminationSignals, AreReadInTheLoopAlsoWhenTheyCameBefore) {
  boost::asio::io_context io{1};
  TerminationSignals signals(io);
  ::raise(SIGTERM);
  std::vector<int> seen;
  signals.on_signal([&](int number) {
    seen.push_back(number);
    if (seen.size() == 1) {
      ::raise(SIGINT);
    } else {
      io.stop();
    }
  });
  io.run();
  EXPECT_EQ(seen, (std::vector<int>{SIGTERM, SIGINT}));
}

TEST(TerminationSignals, LeaveALoopThatHasNothingElseToDo) {
  boost::asio::io_context io{1};
  {
    TerminationSignals signals(io);
    signals.on_signal([](int) {});
  }
  EXPECT_GE(io.run(), 1U);
}

TEST(RandomHex, HasTwoDigitsForEachByte) {
  EXPECT_EQ(random_hex(0), "");
  const std::string text = random_hex(300);
  EXPECT_EQ(text.size(), 600U);
  EXPECT_EQ(text.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_NE(random_hex(16), random_hex(16));
}

TEST(Id, AcceptsWhatClientsMayChoose) {
  EXPECT_TRUE(is_valid_id("a"));
  EXPECT_TRUE(is_valid_id("9:A_b-c.d"));
  EXPECT_TRUE(is_valid_id(std::string(128, 'x')));
}

TEST(Id, RefusesWhatCouldBeAPathOrUnbounded) {
  EXPECT_FALSE(is_valid_id(""));
  EXPECT_FALSE(is_valid_id("."));
  EXPECT_FALSE(is_valid_id("..x"));
  EXPECT_FALSE(is_valid_id("-rf"));
  EXPECT_FALSE(is_valid_id("a/b"));
  EXPECT_FALSE(is_valid_id("a b"));
  EXPECT_FALSE(is_valid_id("a\n"));
  EXPECT_FALSE(is_valid_id(std::string("a\0b", 3)));
  EXPECT_FALSE(is_valid_id("\xc3\xa4"));
  EXPECT_FALSE(is_valid_id(std::string(129, 'x')));
}

// As a std::deque does, also where it moves what is left to the front.
TEST(Fifo, KeepsTheOrderThroughAnyPushesAndPops) {
  Fifo<std::unique_ptr<int>> fifo;
  std::deque<int> expected;
  int next = 0;
  const auto push = [&](int count) {
    for (int i = 0; i < count; ++i) {
      fifo.push_back(std::make_unique<int>(next));
      expected.push_back(next++);
    }
  };
  for (const int pops : {0, 1, 31, 40, 60, 7, 300}) {
    push(50);
    for (int i = 0; i < pops && !expected.empty(); ++i) {
      ASSERT_EQ(*fifo.front(), expected.front());
      fifo.pop_front();
      expected.pop_front();
    }
    ASSERT_EQ(fifo.size(), expected.size());
    ASSERT_EQ(fifo.empty(), expected.empty());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(*fifo[i], expected[i]);
    }
  }
  push(2);
  fifo.pop_back();
  EXPECT_EQ(*fifo.back(), next - 2);
  fifo.pop_back();
  EXPECT_TRUE(fifo.empty());
}

TEST(EqualConstantTime, ComparesContents) {
  EXPECT_TRUE(equal_constant_time("", ""));
  EXPECT_TRUE(equal_constant_time("secret", "secret"));
  EXPECT_FALSE(equal_constant_time("secret", "secreT"));
  EXPECT_FALSE(equal_constant_time("secret", "secret "));
}

TEST(ErrorCatalogue, GivesEachCodeItsOwnKind) {
  std::set<std::string_view> kinds;
  for (const int number :
       {-32700, -32600, -32601, -32602, -32603, -32000, -32001, -32002, -32003, -32004, -32005,
        -32006, -32007, -32008, -32009, -32010, -32011, -32012}) {
    const ErrorCode code = error_code_from_number(number);
    EXPECT_EQ(static_cast<int>(code), number);
    EXPECT_TRUE(kinds.insert(catalogue(code).kind).second) << number;
    EXPECT_FALSE(catalogue(code).message.empty());
  }
}

TEST(ErrorCatalogue, TakesAnUnknownNumberForInternal) {
  EXPECT_EQ(error_code_from_number(0), ErrorCode::kInternal);
  EXPECT_EQ(error_code_from_number(-32013), ErrorCode::kInternal);
}

TEST(ErrorCatalogue, RetriesWhatMaySucceedLater) {
  EXPECT_TRUE(catalogue(ErrorCode::kBusy).retryable);
  EXPECT_TRUE(catalogue(ErrorCode::kUnavailable).retryable);
  EXPECT_FALSE(catalogue(ErrorCode::kInvalidParams).retryable);
  EXPECT_FALSE(catalogue(ErrorCode::kWorkerLost).retryable);
}

TEST(ErrorText, HasNumberKindDetailAndInternal) {
  EXPECT_EQ(to_string(make_error(ErrorCode::kInvalidParams, "x: required", "from y")),
            "-32602 invalid_params: x: required (from y)");
  EXPECT_EQ(to_string(make_error(ErrorCode::kBusy)), "-32012 busy");
}

TEST(Result, ThrowsItsErrorWhenTheValueIsTakenAnyway) {
  const Result<int> result = make_error(ErrorCode::kNotFound, "no such thing");
  EXPECT_FALSE(result);
  try {
    (void)result.value();
    FAIL() << "nothing was thrown";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("no such thing"), std::string::npos);
  }
}

TEST(UniqueFd, ClosesOnceAndMovesOwnership) {
  int ends[2] = {-1, -1};
  ASSERT_EQ(::pipe(ends), 0);
  UniqueFd reading(ends[0]);
  {
    UniqueFd writing(ends[1]);
    UniqueFd moved(std::move(writing));
    EXPECT_EQ(writing.get(), -1);  // NOLINT(bugprone-use-after-move): that is what is tested
    EXPECT_EQ(::write(moved.get(), "x", 1), 1);
  }
  char byte = 0;
  EXPECT_EQ(::read(reading.get(), &byte, 1), 1);
  EXPECT_EQ(::read(reading.get(), &byte, 1), 0) << "the writing end is still open";
  const int raw = reading.release();
  EXPECT_FALSE(reading);
  EXPECT_EQ(::close(raw), 0);
}

}  // namespace
}  // namespace runbus
