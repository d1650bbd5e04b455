// A program's output to a WebSocket client, beside `cat` through a pipe plus the JSON escaping.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <stdexcept>

#include "proto/wire/transcoder.h"
#include "tools/runbus/bench_rig.h"
#include "tools/runbus/commands.h"

namespace runbus::cli {
namespace {

constexpr std::chrono::seconds kStreamBound{300};
constexpr double kMegabyte = 1e6;
constexpr std::size_t kHeadBytes = 160;

std::string producer(int megabytes) {
  return "head -c " + std::to_string(megabytes) + "000000 /dev/zero | tr '\\0' x";
}

// Megabytes per second of the same producer through `cat`, read and escaped by one process.
double bare_rate(int megabytes) {
  const auto start = BenchClock::now();
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(
      ::popen((producer(megabytes) + " | cat").c_str(), "re"), ::pclose);
  if (!pipe) {
    throw std::runtime_error("cannot start a shell");
  }
  std::string buffer(65536, '\0');
  std::string escaped;
  std::size_t total = 0;
  for (;;) {
    const ssize_t count = ::read(::fileno(pipe.get()), buffer.data(), buffer.size());
    if (count <= 0) {
      break;
    }
    total += static_cast<std::size_t>(count);
    escaped.clear();
    wire::append_json_string(std::string_view(buffer).substr(0, static_cast<std::size_t>(count)),
                             escaped);
  }
  return static_cast<double>(total) / kMegabyte / seconds_since(start);
}

}  // namespace

void bench_stream(Rig& rig) {
  const int megabytes = rig.rounds(300, 20);
  std::size_t received = 0;
  Line line(
      rig.gateway,
      {.on_notification = {}, .on_closed = {}, .on_frame = [&received](std::string_view frame) {
         // Counted without being parsed: the client's own work is not what is measured.
         const bool output =
             frame.substr(0, kHeadBytes).find("\"execute.output\"") != std::string_view::npos;
         received += output ? frame.size() : 0;
         return output;
       }});
  const std::string code = producer(megabytes);
  const std::string more = ",\"stdin\":\"\",\"config\":{\"timeout\":300}";
  // The sandbox is made, and the way is warm.
  const Result<rapidjson::Document> warm = line.client->call(
      "execute.code_streaming", code_params("bash", "echo 1", more), kStreamBound);
  if (!warm) {
    throw std::runtime_error(describe(warm.error()));
  }
  received = 0;
  const auto start = BenchClock::now();
  const Result<rapidjson::Document> result =
      line.client->call("execute.code_streaming", code_params("bash", code, more), kStreamBound);
  const double took = seconds_since(start);
  if (!result) {
    throw std::runtime_error(describe(result.error()));
  }
  const auto bytes = result->FindMember("bytes");
  const std::uint64_t produced =
      bytes != result->MemberEnd() && bytes->value.IsUint64() ? bytes->value.GetUint64() : 0;
  if (produced != static_cast<std::uint64_t>(megabytes) * 1'000'000 || received < produced) {
    throw std::runtime_error("the stream is not complete: " + std::to_string(produced) +
                             " bytes, " + std::to_string(received) + " with their frames; result " +
                             to_json(*result));
  }
  const double rate = static_cast<double>(produced) / kMegabyte / took;
  const double bare = bare_rate(megabytes);
  rig.report.add({.what = "stdout of a program to a client",
                  .value = rate,
                  .unit = "MB/s",
                  .baseline_name = "MB/s cat | JSON escaping",
                  .baseline = bare,
                  .budget = ">= 300 MB/s or >= 0.3 x",
                  .met = rate >= 300 || rate >= 0.3 * bare});
}

}  // namespace runbus::cli
