#include "services/worker/worker.h"
#include "tools/examples/echo_cpp/echo_service.h"

int main(int argc, char** argv) {
  return runbus::worker::run(argc, argv, "echo",
                             [](boost::asio::io_context& io, runbus::worker::Worker&) {
                               std::vector<std::unique_ptr<runbus::worker::Service>> services;
                               services.push_back(std::make_unique<example::EchoService>(io));
                               return services;
                             });
}
