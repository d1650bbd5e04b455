#include "services/execution/outcome.h"

#include <gtest/gtest.h>
#include <signal.h>

namespace runbus::execution {
namespace {

v1::agent::Exited exited(int code, int signal, const std::string& reason = {},
                         const std::string& limit = {}) {
  v1::agent::Exited result;
  result.set_code(code);
  result.set_signal(signal);
  result.set_reason(reason);
  result.set_limit(limit);
  return result;
}

TEST(Outcome, AnExitCodeDecidesBetweenCompletedAndFailed) {
  EXPECT_EQ(outcome_of(exited(0, 0)).status, "completed");
  EXPECT_EQ(outcome_of(exited(0, 0)).exit_code, 0);
  EXPECT_EQ(outcome_of(exited(3, 0)).status, "failed");
  EXPECT_EQ(outcome_of(exited(3, 0)).exit_code, 3);
  EXPECT_FALSE(outcome_of(exited(3, 0)).signal.has_value());
}

TEST(Outcome, ASignalIsNamedAndLeavesNoExitCode) {
  const Outcome outcome = outcome_of(exited(0, SIGSEGV));
  EXPECT_EQ(outcome.status, "failed");
  EXPECT_EQ(outcome.signal, "SIGSEGV");
  EXPECT_FALSE(outcome.exit_code.has_value());
  EXPECT_EQ(outcome_of(exited(0, 34)).signal, "SIG34");
}

TEST(Outcome, ATimeoutAndACancellationInventNoExitCode) {
  const Outcome timeout = outcome_of(exited(0, SIGKILL, "timeout", "time"));
  EXPECT_EQ(timeout.status, "timeout");
  EXPECT_EQ(timeout.limit, "time");
  EXPECT_FALSE(timeout.exit_code.has_value());
  const Outcome cancelled = outcome_of(exited(0, SIGKILL, "cancelled"));
  EXPECT_EQ(cancelled.status, "cancelled");
  EXPECT_FALSE(cancelled.exit_code.has_value());
  EXPECT_FALSE(cancelled.limit.has_value());
}

TEST(Outcome, KeepsTheNameOfALimitAndNoInventedOne) {
  EXPECT_EQ(outcome_of(exited(0, SIGKILL, "", "output")).limit, "output");
  EXPECT_FALSE(outcome_of(exited(0, SIGKILL, "", "<script>")).limit.has_value());
}

TEST(Outcome, TimesOfAHostileAgentFitATimestamp) {
  v1::agent::Exited odd = exited(0, 0);
  odd.set_ended_ms(UINT64_MAX);
  v1::CodeResult result;
  fill_result(outcome_of(odd), result);
  EXPECT_EQ(result.timestamp().seconds(), 253'402'300'799);
}

TEST(Signals, AreKnownByTheirNamesWithAndWithoutPrefix) {
  EXPECT_EQ(signal_number("INT"), SIGINT);
  EXPECT_EQ(signal_number("sigterm"), SIGTERM);
  EXPECT_EQ(signal_number("WINCH"), SIGWINCH);
  EXPECT_FALSE(signal_number("SEGV").has_value());
  EXPECT_FALSE(signal_number("9").has_value());
  EXPECT_FALSE(signal_number("").has_value());
}

}  // namespace
}  // namespace runbus::execution
