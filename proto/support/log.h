#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace runbus {

// Sets up the process's one logger: lines on stderr, "time level program: text". `level` is an spdlog
// level name. Call once, from main, before any other thread starts. Log through spdlog::info(...) etc.
// Nothing that a client, a worker or a program sent is logged unescaped or unbounded: use printable().
void setup_logging(const std::string& program, const std::string& level);

// `text` with control and non-ASCII bytes as \xNN, cut to `limit` bytes and marked with "..." when cut.
std::string printable(std::string_view text, std::size_t limit = 200);

}  // namespace runbus
