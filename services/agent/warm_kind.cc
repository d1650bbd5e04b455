#include "services/agent/warm_kind.h"

#include <unistd.h>

#include "proto/support/executable_memory.h"

namespace runbus::agent {

UniqueFd make_file(const char* name, std::string_view content) {
  UniqueFd file = make_executable_memory(name);
  if (file &&
      ::write(file.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size())) {
    file.reset();
  }
  return file;
}

void append_list(std::string& job, const std::vector<std::string>& strings) {
  job += std::to_string(strings.size()) + '\0';
  for (const std::string& text : strings) {
    job += text + '\0';
  }
}

}  // namespace runbus::agent
