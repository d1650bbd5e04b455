#include "gateway/coroutine.h"

#include <spdlog/spdlog.h>

#include "proto/support/log.h"

namespace runbus::gateway {

void log_escaped(const char* name, const std::exception_ptr& exception) noexcept {
  if (!exception) {
    return;
  }
  try {
    std::rethrow_exception(exception);
  } catch (const std::exception& error) {
    spdlog::error("{}: {}", name, printable(error.what()));
  } catch (...) {
    spdlog::error("{}: an exception of no known type", name);
  }
}

}  // namespace runbus::gateway
