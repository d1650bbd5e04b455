#include <fcntl.h>
#include <rapidjson/document.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <optional>

#include "tools/runbus/child.h"
#include "tools/runbus/commands.h"
#include "tools/runbus/files.h"

namespace runbus::cli {
namespace {

constexpr std::size_t kMaxProbe = 1U << 20U;

struct Probed {
  std::string json;
  int status = 0;
};

Result<Probed> run_probe(ChildSpec spec) {
  std::array<int, 2> ends{-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return failure_of_system("pipe", errno);
  }
  const UniqueFd output(ends[0]);
  UniqueFd input(ends[1]);
  spec.stdout_fd = input.get();
  const Result<Child> child = spawn(spec);
  if (!child) {
    return child.error();
  }
  input.reset();
  Probed probed;
  std::array<char, 4096> buffer{};
  for (;;) {
    const ssize_t count = ::read(output.get(), buffer.data(), buffer.size());
    if (count == 0 || (count < 0 && errno != EINTR) || probed.json.size() > kMaxProbe) {
      break;
    }
    probed.json.append(buffer.data(), static_cast<std::size_t>(count > 0 ? count : 0));
  }
  while (::waitpid(child->pid, &probed.status, 0) < 0) {
    if (errno != EINTR) {
      return failure_of_system("waitpid", errno);
    }
  }
  return probed;
}

std::optional<std::string> text_at(const rapidjson::Value& object, const char* member,
                                   const char* name) {
  if (!object.HasMember(member) || !object[member].IsObject()) {
    return std::nullopt;
  }
  const auto found = object[member].FindMember(name);
  return found != object[member].MemberEnd() && found->value.IsString()
             ? std::optional(found->value.GetString())
             : std::nullopt;
}

void explain(const rapidjson::Value& probe, bool works) {
  utsname machine{};
  ::uname(&machine);
  std::printf("runbus %s, %s %s on %s, as %s\n\n", RUNBUS_VERSION, machine.sysname, machine.release,
              machine.machine, ::geteuid() == 0 ? "root" : "an ordinary user");
  const bool named = probe.HasMember("engine") && probe["engine"].IsString();
  std::printf("engine %s: %s\n", named ? probe["engine"].GetString() : "?",
              works ? "works" : "DOES NOT WORK");
  if (const auto why = text_at(probe, "why", "works")) {
    std::printf("  %s\n", why->c_str());
  }
  bool unbounded = false;
  if (probe.HasMember("enforced") && probe["enforced"].IsObject()) {
    for (const auto& [resource, how] : probe["enforced"].GetObject()) {
      const std::string text = how.IsString() ? how.GetString() : "none";
      const auto why = text_at(probe, "why", resource.GetString());
      unbounded = unbounded || text == "none";
      std::printf("  %-10s %s%s\n", resource.GetString(),
                  text == "none" ? "NOT ENFORCED" : text.c_str(),
                  why ? (" (" + *why + ")").c_str() : "");
    }
  }
  if (!works) {
    std::puts(
        "\nNo sandbox can be made here, and `runbus up` refuses to run programs without one. Most "
        "often bubblewrap or "
        "crun is\nmissing (apt-get install bubblewrap crun), or user namespaces are switched off. "
        "For development "
        "alone,\n`runbus up --insecure --engine process` isolates nothing.");
  } else if (unbounded) {
    std::puts(
        "\nSandboxes work. What is NOT ENFORCED bounds nothing: a program may use all that the "
        "machine has of it.");
  } else {
    std::puts("\nSandboxes work, and every limit is enforced.");
  }
}

}  // namespace

// What an engine can do is the worker's to find out, by a real run; this says what it means.
int doctor(const DoctorOptions& options) {
  ChildSpec spec{.name = "the probe", .argv = {options.bin_dir + "/runbus-worker", "--probe"}};
  if (!options.engine.empty()) {
    spec.argv.insert(spec.argv.end(), {"--engine", options.engine});
  }
  if (!options.runtime.empty()) {
    spec.argv.insert(spec.argv.end(), {"--runtime", options.runtime});
  }
  if (options.insecure) {
    spec.argv.emplace_back("--insecure");
  }
  const Result<Probed> probed = run_probe(std::move(spec));
  if (!probed) {
    return complain(probed.error());
  }
  rapidjson::Document probe;
  probe.Parse<rapidjson::kParseIterativeFlag>(probed->json.c_str(), probed->json.size());
  if (probe.HasParseError() || !probe.IsObject()) {
    return complain(failure("the probe of the engines ended without a result (see above)"));
  }
  const bool works = WIFEXITED(probed->status) && WEXITSTATUS(probed->status) == 0;
  if (options.json) {
    std::fputs(probed->json.c_str(), stdout);
  } else {
    explain(probe, works);
  }
  return works ? 0 : 1;
}

}  // namespace runbus::cli
