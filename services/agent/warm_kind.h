#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/support/unique_fd.h"
#include "services/agent/helper.h"

namespace runbus::agent {

// What is particular to an interpreter (warm_python.h, warm_node.h), for WarmInterpreter.
class WarmKind {
 public:
  struct Parent {
    ProgramPlan plan;
    std::vector<UniqueFd> descriptors;  // 4 and the numbers after it; 3 is its socket
  };

  virtual ~WarmKind() = default;
  // How a parent is started; nothing when the machine refuses the descriptors.
  virtual std::optional<Parent> make_parent() = 0;
  // Whether a spare is what the plan says, or becomes it.
  virtual bool suits(const ProgramPlan& plan) const = 0;
  // Whether the parent is started at once, or after a run that a spare could have been.
  virtual bool starts_ahead() const = 0;
};

// A file in memory with this content, which may be loaded and executed; empty when the machine has
// none.
UniqueFd make_file(const char* name, std::string_view content);

// As a job has them (SpareJob): their number and each of them, ended by zero bytes.
void append_list(std::string& job, const std::vector<std::string>& strings);

}  // namespace runbus::agent
