#include "tests/unit/gateway/fake_bus.h"

#include <google/protobuf/descriptor.pb.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "proto/wire/transcoder.h"

namespace runbus::gateway::test {

using google::protobuf::FieldDescriptorProto;
using google::protobuf::FileDescriptorProto;

Result<void> FakePort::send(const v1::Header& header, std::string_view body) {
  if (refusal) {
    return *refusal;
  }
  if (!up) {
    return make_error(ErrorCode::kUnavailable);
  }
  sent.push_back({header, std::string(body)});
  if (on_send) {
    const Sent copy = sent.back();
    on_send(copy);
  }
  return {};
}

Sent FakePort::take(v1::Kind kind) {
  const auto found = std::find_if(sent.begin(), sent.end(),
                                  [kind](const Sent& one) { return one.header.kind() == kind; });
  if (found == sent.end()) {
    ADD_FAILURE() << "no message of kind " << v1::Kind_Name(kind) << " was sent";
    return {};
  }
  Sent taken = std::move(*found);
  sent.erase(found);
  return taken;
}

std::size_t FakePort::count(v1::Kind kind) const {
  return static_cast<std::size_t>(std::count_if(
      sent.begin(), sent.end(), [kind](const Sent& one) { return one.header.kind() == kind; }));
}

void FakeHistory::history(std::size_t broker, const v1::HistoryRequest& request,
                          std::function<void(Result<v1::HistoryResponse>)> done) {
  if (request.after() < std::numeric_limits<std::uint64_t>::max()) {
    asked.push_back({broker, request, std::move(done)});
    return;
  }
  if (silent) {
    return;
  }
  v1::HistoryResponse response;  // where it stands, and no events
  response.set_epoch(stands[request.topic()].epoch());
  response.set_last(stands[request.topic()].offset());
  done(response);
}

void FakeHistory::topics(std::size_t broker, const v1::TopicsRequest& request,
                         std::function<void(Result<v1::TopicsResponse>)> done) {
  asked_for_topics.push_back(request);
  v1::TopicsResponse others;
  others.set_more(true);
  done(listed.contains(broker) ? listed[broker] : others);
}

Result<void> FakeHistory::publish(std::size_t broker, const v1::Event& event) {
  published.push_back(event);
  if (on_publish) {
    on_publish(broker, event);
  }
  return {};
}

void FakeFeed::subscribe(const std::string& prefix) { prefixes_.push_back(prefix); }

void FakeFeed::unsubscribe(const std::string& prefix) {
  const auto found = std::find(prefixes_.begin(), prefixes_.end(), prefix);
  if (found == prefixes_.end()) {
    ADD_FAILURE() << "unsubscribed without a subscription: " << prefix;
    return;
  }
  prefixes_.erase(found);
}

void FakeSink::send(std::string frame) { frames.push_back(std::move(frame)); }

void FakeSink::send_item(std::unique_ptr<Item> item) {
  held.push_back(std::move(item));
  if (!hold_items) {
    deliver();
  }
}

void FakeSink::deliver() {
  const auto items = std::exchange(held, {});
  for (const auto& item : items) {
    std::string frame;
    item->render(frame);
    if (!frame.empty()) {
      frames.push_back(std::move(frame));
    }
    item->delivered();
  }
}

std::vector<std::string> FakeSink::take() { return std::exchange(frames, {}); }

namespace {

void add_message(FileDescriptorProto& file, const std::string& name,
                 const std::vector<std::string>& numbers) {
  auto* message = file.add_message_type();
  message->set_name(name);
  for (const std::string& field_name : numbers) {
    auto* field = message->add_field();
    field->set_name(field_name);
    field->set_number(message->field_size());
    field->set_type(FieldDescriptorProto::TYPE_INT32);
    field->set_label(FieldDescriptorProto::LABEL_OPTIONAL);
  }
}

void add_stream(FileDescriptorProto& file) {
  auto* message = file.add_message_type();
  message->set_name("CountStream");
  message->add_oneof_decl()->set_name("item");
  for (const std::string name : {"number", "done"}) {
    auto* field = message->add_field();
    field->set_name(name);
    field->set_number(message->field_size());
    field->set_type(FieldDescriptorProto::TYPE_MESSAGE);
    field->set_type_name(name == "number" ? ".test.Number" : ".test.Done");
    field->set_label(FieldDescriptorProto::LABEL_OPTIONAL);
    field->set_oneof_index(0);
    if (name == "number") {
      field->mutable_options()->SetExtension(v1::notification, std::string("count.number"));
    } else {
      field->mutable_options()->SetExtension(v1::result, true);
    }
  }
}

google::protobuf::MethodDescriptorProto& add_method(
    google::protobuf::ServiceDescriptorProto& service, const std::string& name,
    const std::string& request, const std::string& response) {
  auto* method = service.add_method();
  method->set_name("Do_" + name);
  method->set_input_type(".test." + request);
  method->set_output_type(".test." + response);
  method->mutable_options()->MutableExtension(v1::method)->set_name(name);
  return *method;
}

}  // namespace

v1::ServiceOffer calc_offer() {
  FileDescriptorProto file;
  file.set_name("test/calc.proto");
  file.set_package("test");
  file.set_syntax("proto3");
  file.add_dependency("runbus/v1/options.proto");
  add_message(file, "Subtract", {"minuend", "subtrahend"});
  add_message(file, "Difference", {"difference"});
  add_message(file, "Numbers", {"a", "b", "c", "d", "e"});
  add_message(file, "Sum", {"sum"});
  add_message(file, "Empty", {});
  add_message(file, "Data", {"data"});
  add_message(file, "Number", {"value"});
  add_message(file, "Done", {"total"});
  add_stream(file);
  auto* service = file.add_service();
  service->set_name("CalcService");
  add_method(*service, "subtract", "Subtract", "Difference");
  add_method(*service, "sum", "Numbers", "Sum");
  add_method(*service, "update", "Numbers", "Empty");
  add_method(*service, "notify_hello", "Number", "Empty");
  add_method(*service, "notify_sum", "Numbers", "Empty");
  add_method(*service, "get_data", "Empty", "Data");
  auto& count = add_method(*service, "count", "Number", "CountStream");
  count.set_server_streaming(true);
  count.mutable_options()->MutableExtension(v1::method)->set_resumable(true);
  add_method(*service, "upload", "Number", "Sum").set_client_streaming(true);

  google::protobuf::FileDescriptorSet set;
  const auto* options = v1::MethodInfo::descriptor()->file();
  options->dependency(0)->CopyTo(set.add_file());
  options->CopyTo(set.add_file());
  *set.add_file() = file;
  v1::ServiceOffer offer;
  offer.set_service("test.CalcService");
  offer.set_capacity(8);
  set.SerializeToString(offer.mutable_descriptor_set());
  for (const auto& method : service->method()) {
    offer.add_methods(method.options().GetExtension(v1::method).name());
  }
  return offer;
}

FakeBus::FakeBus(CallPatience patience)
    : client(io, "gateway-1", patience, std::chrono::milliseconds(50)),
      hub(io, history, "gateway-1") {
  second.up = false;
  client.add_port(port);
  client.add_port(second);
  services(port, {calc_offer()});
}

void FakeBus::services(FakePort& from, const std::vector<v1::ServiceOffer>& offers) {
  v1::Services all;
  for (const v1::ServiceOffer& offer : offers) {
    *all.add_services() = offer;
  }
  v1::Header header;
  header.set_kind(v1::SERVICES);
  zmq::message_t body(all.SerializeAsString());
  client.on_message(from, header, body);
}

std::shared_ptr<RpcSession> FakeBus::session(FakeSink& sink) {
  return std::make_shared<RpcSession>(rpc, sink, Caller{"tester", "", 60});
}

const wire::Method& FakeBus::method(const std::string& name) const {
  const wire::Method* found = client.catalog()->find(name);
  if (found == nullptr) {
    throw std::logic_error("the catalog has no " + name);
  }
  return *found;
}

std::string FakeBus::json(const Sent& call) const {
  const auto message = client.catalog()->new_request(method(call.header.method()));
  EXPECT_TRUE(message->ParseFromString(call.body));
  std::string text;
  wire::append_json(*message, text);
  return text;
}

std::string FakeBus::encode(const Sent& call, const std::string& json) const {
  const auto message = client.catalog()->new_response(method(call.header.method()));
  rapidjson::Document document;
  EXPECT_TRUE(wire::parse_json(json, {}, document)) << json;
  const Result<void> read = wire::json_to_message(document, *message);
  EXPECT_TRUE(read) << json;
  return message->SerializeAsString();
}

void FakeBus::deliver(v1::Header header, const std::string& body) {
  zmq::message_t message(body);
  client.on_message(port, header, message);
}

void FakeBus::accept(const Sent& call, const std::string& worker) {
  v1::Header header;
  header.set_kind(v1::ACCEPTED);
  header.set_call_id(call.header.call_id());
  header.set_worker_id(worker);
  deliver(header, {});
}

void FakeBus::item(const Sent& call, std::uint64_t sequence, const std::string& json,
                   std::uint64_t offset) {
  v1::Header header;
  header.set_kind(v1::ITEM);
  header.set_call_id(call.header.call_id());
  header.set_sequence(sequence);
  header.set_offset(offset);
  deliver(header, encode(call, json));
}

void FakeBus::result(const Sent& call, std::uint64_t sequence, const std::string& json) {
  v1::Header header;
  header.set_kind(v1::RESULT);
  header.set_call_id(call.header.call_id());
  header.set_sequence(sequence);
  deliver(header, encode(call, json));
}

void FakeBus::answer(const Sent& call, const google::protobuf::Message& result) {
  v1::Header header;
  header.set_kind(v1::RESULT);
  header.set_call_id(call.header.call_id());
  header.set_sequence(1);
  deliver(header, result.SerializeAsString());
}

void FakeBus::error(const Sent& call, ErrorCode code, std::uint64_t sequence) {
  v1::Header header;
  header.set_kind(v1::ERROR);
  header.set_call_id(call.header.call_id());
  header.set_sequence(sequence);
  v1::ErrorBody body;
  body.set_code(static_cast<std::int32_t>(code));
  deliver(header, body.SerializeAsString());
}

bool FakeBus::run_until(const std::function<bool()>& done) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!done()) {
    if (std::chrono::steady_clock::now() > until) {
      return false;
    }
    io.restart();
    io.run_one_for(std::chrono::milliseconds(20));
  }
  return true;
}

}  // namespace runbus::gateway::test
