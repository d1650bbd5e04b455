#include "services/agent/warm_python.h"

#include <algorithm>
#include <utility>

#include "services/agent/parent/embedded.h"
#include "services/agent/spawner.h"

namespace runbus::agent {
namespace {

constexpr int kScriptFd = 4;
constexpr int kModuleFd = 5;

class WarmPython final : public WarmKind {
 public:
  WarmPython(const v1::Warm& warm, std::string home) : warm_(warm), home_(std::move(home)) {}

  std::optional<Parent> make_parent() override {
    Parent parent;
    parent.descriptors.push_back(make_file("runbus-python", python_parent_script()));
    parent.descriptors.push_back(make_file("runbus-python-module", python_module()));
    parent.descriptors.push_back(make_file("runbus-python-environment", usual_environment()));
    if (!std::all_of(parent.descriptors.begin(), parent.descriptors.end(),
                     [](const UniqueFd& fd) { return static_cast<bool>(fd); })) {
      return std::nullopt;
    }
    v1::Step step;
    *step.mutable_argv() = warm_.argv();
    step.add_argv("/proc/self/fd/" + std::to_string(kScriptFd));
    step.add_argv(warm_.argv(0));
    step.mutable_argv()->MergeFrom(warm_.preload());
    *step.mutable_environment() = warm_.environment();
    step.add_environment("LD_PRELOAD=/proc/self/fd/" + std::to_string(kModuleFd));
    step.add_environment("LD_BIND_NOW=1");  // no spare shall look for a function
    parent.plan = plan_of(step);
    return parent;
  }

  bool suits(const ProgramPlan&) const override { return true; }
  bool starts_ahead() const override { return true; }

 private:
  std::string usual_environment() const {
    std::vector<std::string> lines(warm_.usual_environment().begin(),
                                   warm_.usual_environment().end());
    const auto place = std::find_if(lines.begin(), lines.end(), [](const std::string& line) {
      return line.substr(0, line.find('=')) >= "HOME";
    });
    if (place == lines.end() || !place->starts_with("HOME=")) {
      lines.insert(place, "HOME=" + home_);
    }
    std::string list;
    append_list(list, lines);
    return list;
  }

  const v1::Warm warm_;
  const std::string home_;
};

}  // namespace

std::unique_ptr<WarmKind> make_warm_python(const v1::Warm& warm, std::string home) {
  return std::make_unique<WarmPython>(warm, std::move(home));
}

}  // namespace runbus::agent
