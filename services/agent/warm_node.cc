#include "services/agent/warm_node.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "services/agent/parent/embedded.h"
#include "services/agent/spawner.h"

namespace runbus::agent {
namespace {

constexpr int kModuleFd = 4;

std::string_view name_of(std::string_view variable) {
  return variable.substr(0, variable.find('='));
}

bool is_locale(std::string_view name) {
  return name == "LANG" || name == "LANGUAGE" || name.starts_with("LC_");
}

// Node.js, its libraries or the loader read it before a spare knows of it.
bool is_read_at_start(std::string_view name) {
  constexpr std::array<std::string_view, 8> kPrefixes = {"NODE_", "LD_",  "UV_",     "OPENSSL_",
                                                         "SSL_",  "ICU_", "MALLOC_", "GLIBC_"};
  return name != "NODE_ENV" &&
         std::any_of(kPrefixes.begin(), kPrefixes.end(),
                     [name](std::string_view prefix) { return name.starts_with(prefix); });
}

std::vector<std::string> locale_of(const std::vector<std::string>& environment) {
  std::vector<std::string> result;
  std::copy_if(environment.begin(), environment.end(), std::back_inserter(result),
               [](const std::string& variable) { return is_locale(name_of(variable)); });
  std::sort(result.begin(), result.end());
  return result;
}

std::string find_program(const ProgramPlan& plan) {
  const auto found =
      std::find_if(plan.candidates.begin(), plan.candidates.end(),
                   [](const std::string& path) { return ::access(path.c_str(), X_OK) == 0; });
  return found == plan.candidates.end() ? std::string() : *found;
}

class WarmNode final : public WarmKind {
 public:
  explicit WarmNode(const v1::Warm& warm) : warm_(warm) {}

  std::optional<Parent> make_parent() override {
    Parent parent;
    parent.descriptors.push_back(make_file("runbus-node-module", node_module()));
    if (!parent.descriptors[0]) {
      return std::nullopt;
    }
    v1::Step step;
    *step.mutable_argv() = warm_.argv();
    for (const char* argument : {"--require", "/proc/self/environ", "main.js"}) {
      step.add_argv(argument);
    }
    step.mutable_argv()->MergeFrom(warm_.preload());
    *step.mutable_environment() = warm_.environment();
    step.add_environment("LD_PRELOAD=/proc/self/fd/" + std::to_string(kModuleFd));
    parent.plan = plan_of(step);
    // The first entry, and in its last line a comment: the kernel puts a zero byte behind it, and
    // then come the others.
    parent.plan.environment.insert(parent.plan.environment.begin(),
                                   std::string(node_parent_script()) + "//");
    program_path_ = find_program(parent.plan);
    return parent;
  }

  bool suits(const ProgramPlan& plan) const override {
    const std::vector<std::string> own(warm_.environment().begin(), warm_.environment().end());
    return plan.arguments.size() > 1 && plan.arguments[0] == warm_.argv(0) &&
           !plan.arguments[1].empty() && plan.arguments[1][0] != '-' &&
           std::none_of(plan.environment.begin(), plan.environment.end(),
                        [](const std::string& variable) {
                          return is_read_at_start(name_of(variable)) || name_of(variable).empty();
                        }) &&
           locale_of(plan.environment) == locale_of(own) &&
           (program_path_.empty() || find_program(plan) == program_path_);
  }

  bool starts_ahead() const override { return false; }

 private:
  const v1::Warm warm_;
  std::string program_path_;  // of the last parent
};

}  // namespace

std::unique_ptr<WarmKind> make_warm_node(const v1::Warm& warm) {
  return std::make_unique<WarmNode>(warm);
}

}  // namespace runbus::agent
