#include "services/worker/worker.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "proto/support/id.h"
#include "proto/support/log.h"
#include "proto/wire/catalog.h"
#include "services/worker/worker_impl.h"

namespace runbus::worker {
namespace {

using std::chrono_literals::operator""s;

// Ready.calls has at most this many (bus.proto).
constexpr int kMaxReadyCalls = 4096;

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) {
    throw std::system_error(errno, std::generic_category(), "gethostname");
  }
  return name.data();
}

}  // namespace

Worker::Impl::Impl(boost::asio::io_context& io_context, WorkerOptions worker_options)
    : loop(io_context),
      options(std::move(worker_options)),
      id(make_uuid()),
      drain_timer(io_context),
      deadlines(io_context, [this](const std::string& call_id) { on_deadline(call_id); }) {}

void Worker::Impl::start() {
  if (started) {
    throw std::logic_error("the worker is started twice");
  }
  if (options.brokers.empty()) {
    throw std::invalid_argument("a worker needs the endpoint of a broker");
  }
  for (const auto& served : services) {
    served->service->check_complete();
    served->offer = wire::make_offer(served->service->descriptor(), served->service->capacity());
  }
  started = true;
  links.resize(options.brokers.size());
  for (std::size_t i = 0; i < links.size(); ++i) {
    wire::BusLink::Events events;
    events.on_connected = [this, i](const v1::Welcome& welcome, bool new_broker) {
      on_connected(i, welcome, new_broker);
    };
    events.on_disconnected = [this, i] { on_disconnected(i); };
    events.on_message = [this, i](v1::Header& header, zmq::message_t& body) {
      on_message(i, header, body);
    };
    wire::BusLinkOptions link;
    link.endpoint = options.brokers[i];
    link.curve = options.curve;
    links[i].bus = std::make_unique<wire::BusLink>(
        loop, context, std::move(link), [this, i] { return make_ready(i); }, std::move(events));
    links[i].bus->on_drained([this, i] {
      each_call([i](CallState& call) {
        if (call.link() == i) {
          call.pump();
        }
      });
    });
  }
}

void Worker::Impl::stop() {
  for (const Link& link : links) {
    link.bus->close();
  }
  drain_timer.cancel();
  each_call([](CallState& call) { call.detach(); });
  calls.clear();
}

v1::Ready Worker::Impl::make_ready(std::size_t link) {
  v1::Ready ready;
  ready.set_role(v1::WORKER);
  ready.set_peer_id(id);
  ready.set_node(options.node);
  ready.set_name(options.name);
  ready.set_version(RUNBUS_VERSION);
  ready.set_pid(static_cast<std::uint32_t>(::getpid()));
  for (const auto& served : services) {
    *ready.add_services() = served->offer;
  }
  for (const auto& [call_id, active] : calls) {
    if (ready.calls_size() == kMaxReadyCalls) {
      break;
    }
    if (!active.call->refused() && active.call->link() == link) {
      ready.add_calls(call_id);
    }
  }
  links[link].untold.clear();
  sessions.each([&ready](const std::string& session) { ready.add_sessions(session); });
  return ready;
}

void Worker::Impl::on_connected(std::size_t link, const v1::Welcome& welcome, bool new_broker) {
  spdlog::info("attached to {} broker {} {}", new_broker ? "new" : "known", options.brokers[link],
               printable(welcome.version()));
  if (welcome.max_body_bytes() > 0) {
    max_body = std::min<std::size_t>(welcome.max_body_bytes(), kLargestMaxBody);
  }
  links[link].heartbeat_timeout = std::chrono::milliseconds(welcome.heartbeat_timeout_ms());
  if (drain_state != Drain::kNo) {
    v1::Header header;
    header.set_kind(v1::DRAIN);
    static_cast<void>(
        links[link].bus->send(header, zmq::message_t()));  // said again at the next welcome
  }
  if (const auto since = std::exchange(links[link].unsure_since, std::nullopt)) {
    for (RecentCalls* list : {&recent, &recent_harmless}) {
      for (auto& call : list->take_since(*since, link)) {
        const std::string call_id = call->header().call_id();
        calls.emplace(call_id, Active{std::move(call), nullptr, std::nullopt});
      }
    }
  }
  tell_brokers();
  each_call([link](CallState& call) { call.restored(link); });
  if (attached_callback) {
    attached_callback();
  }
}

// A link says that it is lost a heartbeat timeout after the broker was last heard: what was given
// to it meanwhile is gone, be it the whole answer of a call.
void Worker::Impl::on_disconnected(std::size_t link) {
  spdlog::warn("lost broker {}", options.brokers[link]);
  if (!links[link].unsure_since) {
    links[link].unsure_since = RecentCalls::Clock::now() - links[link].heartbeat_timeout - 1s;
  }
  tell_of_lost_calls(link);
}

void Worker::Impl::on_message(std::size_t link, const v1::Header& header,
                              const zmq::message_t& body) {
  switch (header.kind()) {
    case v1::CALL:
      on_call(link, header, body);
      return;
    case v1::CANCEL:
      on_cancel(link, header, body);
      return;
    case v1::INPUT:
      if (const auto call = find_for(link, header.call_id())) {
        call->input(body);
      }
      return;
    case v1::CREDIT:
      if (const auto call = find_for(link, header.call_id())) {
        call->grant(header);
      }
      return;
    case v1::DRAIN:
      spdlog::info("broker {} asks this worker to leave", options.brokers[link]);
      if (drain_request_callback) {
        drain_request_callback();
      } else {
        drain({});
      }
      return;
    default:
      spdlog::debug("message of kind {} from broker {} is not for a worker",
                    static_cast<int>(header.kind()), options.brokers[link]);
  }
}

Result<void> Worker::Impl::transmit(std::size_t link, const v1::Header& header,
                                    zmq::message_t body) {
  return links[link].bus->send(header, std::move(body));
}

Worker::Worker(boost::asio::io_context& io, WorkerOptions options)
    : impl_(std::make_shared<Impl>(io, std::move(options))) {
  if (impl_->options.node.empty()) {
    impl_->options.node = host_name();
  }
}

Worker::~Worker() { impl_->stop(); }

void Worker::add(std::unique_ptr<Service> service) {
  if (impl_->started) {
    throw std::logic_error("services are added before the worker starts");
  }
  auto served = std::make_unique<Impl::Served>();
  served->service = std::move(service);
  impl_->services.push_back(std::move(served));
}

void Worker::on_attached(std::function<void()> callback) {
  impl_->attached_callback = std::move(callback);
}

void Worker::on_drain_request(std::function<void()> callback) {
  impl_->drain_request_callback = std::move(callback);
}

void Worker::start() { impl_->start(); }

void Worker::publish(const std::string& topic, google::protobuf::Struct data) {
  v1::Event event;
  event.set_topic(topic);
  event.mutable_data()->Swap(&data);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now);
  event.mutable_timestamp()->set_seconds(seconds.count());
  event.mutable_timestamp()->set_nanos(static_cast<std::int32_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(now - seconds).count()));
  v1::Header header;
  header.set_kind(v1::EVENT);
  // One whose connection is gone is passed over before that is certain; to ask a link makes it look
  // at its socket, and send.
  const auto first = [this](bool (wire::BusLink::*usable)() const) {
    return std::find_if(impl_->links.begin(), impl_->links.end(),
                        [usable](const Impl::Link& link) { return (link.bus.get()->*usable)(); });
  };
  auto link = impl_->links.size() > 1 ? first(&wire::BusLink::writable) : impl_->links.end();
  if (link == impl_->links.end()) {
    link = first(&wire::BusLink::connected);
  }
  if (link == impl_->links.end()) {
    spdlog::warn("dropped an event of {}: no broker is connected", printable(topic));
    return;
  }
  if (const auto sent = link->bus->send_along(header, event.SerializeAsString()); !sent) {
    spdlog::warn("dropped an event of {}: {}", printable(topic), to_string(sent.error()));
  }
}

void Worker::hold_session(const std::string& session_id) { impl_->hold_session(session_id); }

void Worker::let_go_of_session(const std::string& session_id) { impl_->sessions.erase(session_id); }

void Worker::drain(std::function<void()> done) { impl_->drain(std::move(done)); }

const std::string& Worker::id() const { return impl_->id; }

const std::string& Worker::node() const { return impl_->options.node; }

}  // namespace runbus::worker
