// What an idle WebSocket connection costs the gateway.
#include <sys/resource.h>

#include <list>
#include <sstream>
#include <stdexcept>

#include "tools/runbus/bench_rig.h"
#include "tools/runbus/commands.h"
#include "tools/runbus/files.h"

namespace runbus::cli {
namespace {

constexpr std::chrono::seconds kBound{60};
// Before these are there, the allocator of the gateway grows for other reasons.
constexpr int kWarmUp = 50;

double resident_kilobytes(pid_t pid) {
  const Result<std::string> status = read_file("/proc/" + std::to_string(pid) + "/status", 65536);
  if (!status) {
    throw std::runtime_error(status.error().detail);
  }
  const std::size_t at = status->find("VmRSS:");
  return at == std::string::npos ? 0 : std::stod(status->substr(at + 6));
}

void allow_descriptors() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

void open_connections(const Rig& rig, boost::asio::io_context& io, std::list<Client>& clients,
                      int count) {
  for (int i = 0; i < count; ++i) {
    Client& client = clients.emplace_back(io, Client::Events{});
    if (const Result<void> connected = client.connect(rig.gateway, kBound); !connected) {
      throw std::runtime_error("connection " + std::to_string(clients.size()) + ": " +
                               describe(connected.error()));
    }
  }
}

}  // namespace

void bench_connections(Rig& rig) {
  if (rig.gateway_pid < 0) {
    rig.report.skip("memory per connection", "the process of the gateway of --url is not known");
    return;
  }
  allow_descriptors();
  const int count = rig.rounds(1000, 200);
  boost::asio::io_context io(1);
  std::list<Client> clients;
  open_connections(rig, io, clients, kWarmUp);
  const double before = resident_kilobytes(rig.gateway_pid);
  open_connections(rig, io, clients, count);
  const double each = (resident_kilobytes(rig.gateway_pid) - before) / count;
  rig.report.add({.what = "memory per idle connection, " + std::to_string(count),
                  .value = each,
                  .unit = "KB",
                  .baseline_name = {},
                  .baseline = 0,
                  .budget = "<= 11 KB",
                  .met = each <= 11});
}

}  // namespace runbus::cli
