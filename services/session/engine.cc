#include "services/session/engine.h"

#include <filesystem>

#include "services/session/bubblewrap_engine.h"
#include "services/session/doctor.h"
#include "services/session/oci_engine.h"
#include "services/session/process_engine.h"
#include "services/session/runsc_engine.h"

namespace runbus::session {
namespace {

std::unique_ptr<Engine> oci_engine(const EngineOptions& options) {
  if (std::filesystem::path(options.runtime).filename() == "runsc") {
    return std::make_unique<RunscEngine>(options);
  }
  return std::make_unique<OciEngine>(options);
}

Result<std::unique_ptr<Engine>> first_that_works(const EngineOptions& options) {
  std::unique_ptr<Engine> candidates[] = {oci_engine(options),
                                          std::make_unique<BubblewrapEngine>(options)};
  std::string tried;
  for (std::unique_ptr<Engine>& engine : candidates) {
    const Probe probe = engine->probe();
    if (probe.works) {
      return std::move(engine);
    }
    tried += "\n" + describe(probe, engine->name());
  }
  return make_error(ErrorCode::kUnavailable, "no sandbox engine works on this node", tried);
}

}  // namespace

Result<std::unique_ptr<Engine>> make_engine(const EngineOptions& options) {
  if (options.uid_count < 2 || options.first_uid < 1000) {
    return make_error(
        ErrorCode::kValidation,
        "the range of session user ids must begin at 1000 or above and hold at least 2");
  }
  if (options.engine == "auto") {
    return first_that_works(options);
  }
  if (options.engine == "oci") {
    return oci_engine(options);
  }
  if (options.engine == "bubblewrap") {
    return std::unique_ptr<Engine>(std::make_unique<BubblewrapEngine>(options));
  }
  if (options.engine == "process") {
    if (!options.insecure) {
      return make_error(ErrorCode::kValidation,
                        "the process engine has no boundary; it needs --insecure");
    }
    return std::unique_ptr<Engine>(std::make_unique<ProcessEngine>(options));
  }
  return make_error(ErrorCode::kValidation,
                    "unknown engine \"" + options.engine + "\": auto, oci, bubblewrap or process");
}

}  // namespace runbus::session
