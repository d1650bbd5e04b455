#pragma once

#include <memory>
#include <string>

#include "services/session/engine_local.h"
#include "services/session/sealed_program.h"

namespace runbus::session {

// Sandboxes by an OCI runtime (crun, or runc by setting; runsc: runsc_engine.h), from a bundle made
// here. As root: a user namespace in which the sandbox's user 1000 is the session's own host uid
// and its root an id that owns nothing; a network namespace with loopback up, made before the
// runtime runs. As an ordinary user the runtime maps that user. Cgroups are ours (crun makes none),
// so that limits, pausing and killing are the same as with the other engines on every version of
// cgroups.
class OciEngine : public LocalEngine {
 public:
  explicit OciEngine(EngineOptions options);
  std::string name() const override { return "oci"; }
  std::string ended_by(const std::string& state_dir) override;

 protected:
  Result<void> start(Start& start) override;
  std::string missing() override;
  std::string explain(const std::string& log) const override;
  void clean_up(const EngineState& state) override;

  // The sandbox's name among the runtime's.
  static std::string id_of(const EngineState& state);
  const std::string& program() const { return program_; }
  // Runs the runtime, which starts the sandbox, writes its process into `pid_file` and ends.
  Result<void> run_runtime(Start& start, Launch& launch, const std::string& pid_file,
                           Deadline deadline) const;

 private:
  std::vector<std::string> runtime_command(const std::string& program,
                                           const std::string& root) const;
  Result<std::string> make_bundle(const Start& start, Launch& launch) const;

  std::string program_;
  bool crun_ = false;
  std::unique_ptr<SealedProgram> sealed_;  // crun
};

}  // namespace runbus::session
