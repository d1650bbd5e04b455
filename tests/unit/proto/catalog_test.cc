#include "proto/wire/catalog.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.pb.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "proto/wire/transcoder.h"
#include "runbus/v1/execution.pb.h"
#include "runbus/v1/gateway.pb.h"
#include "tests/unit/proto/kinds.pb.h"

namespace runbus::wire {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::DescriptorProto;
using google::protobuf::FieldDescriptorProto;
using google::protobuf::FileDescriptorProto;
using google::protobuf::FileDescriptorSet;
using testing::HasSubstr;

const google::protobuf::ServiceDescriptor& service(const char* name) {
  // Touching a type of each file makes sure that the linker has kept it.
  test::Kinds::descriptor();
  v1::CodeRequest::descriptor();
  v1::PingRequest::descriptor();
  return *DescriptorPool::generated_pool()->FindServiceByName(name);
}

v1::ServiceOffer test_offer() { return make_offer(service("runbus.test.TestService"), 4); }

struct Built {
  std::shared_ptr<const Catalog> catalog;
  std::vector<std::string> problems;
};

Built build(const std::vector<v1::ServiceOffer>& offers) {
  Built built;
  built.catalog = Catalog::build(offers, &built.problems);
  return built;
}

// A file with `method` in service `x.S`, for offers that are unlike ours.
FileDescriptorProto foreign_file(const std::string& method) {
  FileDescriptorProto file;
  file.set_name("x.proto");
  file.set_package("x");
  file.set_syntax("proto3");
  file.add_dependency("runbus/v1/options.proto");
  file.add_message_type()->set_name("M");
  auto* declared = file.add_service();
  declared->set_name("S");
  auto* rpc = declared->add_method();
  rpc->set_name("R");
  rpc->set_input_type(".x.M");
  rpc->set_output_type(".x.M");
  rpc->mutable_options()->MutableExtension(v1::method)->set_name(method);
  return file;
}

v1::ServiceOffer foreign_offer(const FileDescriptorProto& file) {
  FileDescriptorSet set;
  google::protobuf::DescriptorProto::descriptor()->file()->CopyTo(set.add_file());
  v1::MethodInfo::descriptor()->file()->CopyTo(set.add_file());
  *set.add_file() = file;
  v1::ServiceOffer offer;
  offer.set_service("x.S");
  offer.set_descriptor_set(set.SerializeAsString());
  return offer;
}

// The one problem that `offer` alone has.
std::string problem_of(const v1::ServiceOffer& offer) {
  const Built built = build({offer});
  EXPECT_TRUE(built.catalog->methods().empty());
  EXPECT_EQ(built.problems.size(), 1U);
  return built.problems.empty() ? "" : built.problems.front();
}

TEST(Catalog, KnowsWhatTheOptionsSay) {
  const Built built = build({test_offer()});
  EXPECT_TRUE(built.problems.empty()) << built.problems.front();
  std::vector<std::string> names;
  for (const Method* method : built.catalog->methods()) {
    names.push_back(method->name);
  }
  EXPECT_THAT(names, testing::ElementsAre("test.echo", "test.feed", "test.hidden", "test.watch"));

  const Method* echo = built.catalog->find("test.echo");
  ASSERT_NE(echo, nullptr);
  EXPECT_EQ(echo->service, "runbus.test.TestService");
  EXPECT_TRUE(echo->idempotent);
  EXPECT_FALSE(echo->server_streaming);
  EXPECT_FALSE(echo->internal);
  EXPECT_EQ(built.catalog->find("test.say"), echo);

  const Method* watch = built.catalog->find("test.watch");
  ASSERT_NE(watch, nullptr);
  EXPECT_TRUE(watch->server_streaming);
  EXPECT_TRUE(watch->resumable);
  EXPECT_FALSE(watch->idempotent);
  EXPECT_EQ(watch->session_field->name(), "session");
  EXPECT_EQ(watch->new_id_field->name(), "made");
  EXPECT_EQ(watch->existing_id_field->name(), "found");
  EXPECT_EQ(watch->result_field->name(), "end");
  EXPECT_THAT(watch->notifications, testing::ElementsAre(testing::Pair(3, "test.seen")));

  EXPECT_TRUE(built.catalog->find("test.feed")->client_streaming);
  EXPECT_TRUE(built.catalog->find("test.hidden")->internal);
  EXPECT_EQ(built.catalog->find("test"), nullptr);
  EXPECT_EQ(built.catalog->find(""), nullptr);
}

TEST(Catalog, MakesMessagesThatSpeakTheServicesWireFormat) {
  const Built built = build({test_offer()});
  const Method* echo = built.catalog->find("test.echo");
  rapidjson::Document document;
  ASSERT_TRUE(parse_json(
      R"({"a_string":"s","by_bool":{"true":{"x":[1,null]}},"timestamp":"1970-01-01T00:00:01Z",
          "string_wrapper":"w","child":{"text":"t"},"by_string":{"k":{}}})",
      {}, document));
  const auto request = built.catalog->new_request(*echo);
  const Result<void> result = json_to_message(document, *request);
  ASSERT_TRUE(result) << result.error().detail;
  test::Kinds received;
  ASSERT_TRUE(received.ParseFromString(request->SerializeAsString()));
  EXPECT_EQ(received.a_string(), "s");
  EXPECT_EQ(received.timestamp().seconds(), 1);
  EXPECT_EQ(received.string_wrapper().value(), "w");
  EXPECT_EQ(received.child().text(), "t");
  EXPECT_EQ(received.by_bool().at(true).struct_value().fields().at("x").list_value().values_size(),
            2);

  const auto response = built.catalog->new_response(*echo);
  ASSERT_TRUE(response->ParseFromString(received.SerializeAsString()));
  std::string dynamic_text;
  std::string generated_text;
  append_json(*response, dynamic_text);
  append_json(received, generated_text);
  EXPECT_EQ(dynamic_text, generated_text);
}

TEST(Catalog, ServesTheBuiltInServices) {
  const Built built = build({make_offer(service("runbus.v1.ConnectionService"), 1),
                             make_offer(service("runbus.v1.EventsService"), 1),
                             make_offer(service("runbus.v1.BusService"), 1),
                             make_offer(service("runbus.v1.ExecutionService"), 1)});
  EXPECT_TRUE(built.problems.empty()) << built.problems.front();
  for (const char* name : {"connection.ping", "events.subscribe", "bus.workers", "execute.code"}) {
    EXPECT_NE(built.catalog->find(name), nullptr) << name;
  }
  const Method* code = built.catalog->find("execute.code");
  EXPECT_EQ(code->session_field->name(), "session_id");
  EXPECT_EQ(code->new_id_field->name(), "execution_id");
  EXPECT_EQ(code->documentation, "Runs a program to its end and returns what it printed.");
  const Method* streaming = built.catalog->find("execute.code_streaming");
  EXPECT_EQ(streaming->notifications.at(2), "execute.output");
  EXPECT_EQ(streaming->result_field->name(), "result");
}

TEST(Catalog, OffersNameTheirMethodsAndAliases) {
  const v1::ServiceOffer offer = test_offer();
  EXPECT_EQ(offer.service(), "runbus.test.TestService");
  EXPECT_EQ(offer.capacity(), 4U);
  EXPECT_THAT(offer.methods(), testing::ElementsAre("test.echo", "test.say", "test.watch",
                                                    "test.feed", "test.hidden"));
  EXPECT_LT(offer.descriptor_set().size(), 1U << 20U);
}

TEST(Catalog, DescriptorSetsHoldEachFileOnceDependenciesFirst) {
  FileDescriptorSet set;
  ASSERT_TRUE(set.ParseFromString(descriptor_set_of(service("runbus.v1.ExecutionService"))));
  std::set<std::string> seen;
  for (const FileDescriptorProto& file : set.file()) {
    for (const std::string& dependency : file.dependency()) {
      EXPECT_EQ(seen.count(dependency), 1U) << file.name() << " before " << dependency;
    }
    EXPECT_TRUE(seen.insert(file.name()).second);
  }
  EXPECT_EQ(set.file(set.file_size() - 1).name(), "runbus/v1/execution.proto");
}

TEST(Catalog, TakesTheSameServiceOfManyWorkersOnce) {
  const Built built = build({test_offer(), test_offer(), test_offer()});
  EXPECT_TRUE(built.problems.empty());
  EXPECT_EQ(built.catalog->methods().size(), 4U);
}

TEST(Catalog, KeepsTheFirstOfTwoDescriptionsOfAService) {
  v1::ServiceOffer second = foreign_offer(foreign_file("x.second"));
  const Built built = build({foreign_offer(foreign_file("x.first")), second});
  EXPECT_NE(built.catalog->find("x.first"), nullptr);
  EXPECT_EQ(built.catalog->find("x.second"), nullptr);
  ASSERT_EQ(built.problems.size(), 1U);
  EXPECT_THAT(built.problems[0], HasSubstr("described differently"));
}

TEST(Catalog, DoesNotLetABadDescriptionKeepOutAGoodOne) {
  v1::ServiceOffer bad = test_offer();
  bad.set_descriptor_set("\xff");
  const Built built = build({bad, test_offer()});
  EXPECT_NE(built.catalog->find("test.echo"), nullptr);
  EXPECT_EQ(built.problems.size(), 1U);
}

TEST(Catalog, LeavesOutAnOfferWhoseNameIsTaken) {
  for (const char* name : {"test.echo", "test.say"}) {
    const Built built = build({test_offer(), foreign_offer(foreign_file(name))});
    EXPECT_EQ(built.catalog->methods().size(), 4U);
    EXPECT_EQ(built.catalog->find(name)->service, "runbus.test.TestService");
    ASSERT_EQ(built.problems.size(), 1U);
    EXPECT_THAT(built.problems[0], HasSubstr(std::string("another method has: ") + name));
  }
}

TEST(Catalog, RefusesReservedAndMalformedNames) {
  for (const char* name : {"rpc.discover", "connection.ping", "events.subscribe", "bus.workers"}) {
    EXPECT_THAT(problem_of(foreign_offer(foreign_file(name))), HasSubstr("reserved")) << name;
  }
  EXPECT_THAT(problem_of(foreign_offer(foreign_file("a b"))), HasSubstr("not a method name"));
  EXPECT_THAT(problem_of(foreign_offer(foreign_file("\"\n"))), HasSubstr("not a method name"));
  EXPECT_THAT(problem_of(foreign_offer(foreign_file(std::string(129, 'a')))),
              HasSubstr("not a method name"));
}

TEST(Catalog, RefusesAReservedAlias) {
  FileDescriptorProto file = foreign_file("x.r");
  file.mutable_service(0)
      ->mutable_method(0)
      ->mutable_options()
      ->MutableExtension(v1::method)
      ->add_aliases("bus.stats");
  EXPECT_THAT(problem_of(foreign_offer(file)), HasSubstr("reserved"));
}

TEST(Catalog, LeavesOutWhatIsMalformed) {
  v1::ServiceOffer offer = test_offer();
  offer.set_service("runbus.test.NoSuchService");
  EXPECT_THAT(problem_of(offer), HasSubstr("no such service"));
  offer = test_offer();
  offer.set_descriptor_set(offer.descriptor_set().substr(0, 1000));
  EXPECT_THAT(problem_of(offer), HasSubstr("FileDescriptorSet"));
  offer.set_descriptor_set(std::string((1U << 20U) + 1, '\0'));
  EXPECT_THAT(problem_of(offer), HasSubstr("bytes"));
  FileDescriptorProto dangling = foreign_file("x.r");
  dangling.mutable_service(0)->mutable_method(0)->set_input_type(".x.Missing");
  EXPECT_THAT(problem_of(foreign_offer(dangling)), HasSubstr("Missing"));
}

TEST(Catalog, BoundsWhatADescriptionCosts) {
  FileDescriptorProto many = foreign_file("x.r");
  for (int i = 0; i < 2000; ++i) {
    many.add_message_type()->set_name("T" + std::to_string(i));
  }
  EXPECT_THAT(problem_of(foreign_offer(many)), HasSubstr("too many message types"));

  FileDescriptorProto deep = foreign_file("x.r");
  DescriptorProto* inner = deep.mutable_message_type(0);
  for (int i = 0; i < 40; ++i) {
    inner = inner->add_nested_type();
    inner->set_name("N");
  }
  EXPECT_THAT(problem_of(foreign_offer(deep)), HasSubstr("nested too deeply"));

  FileDescriptorProto ranges = foreign_file("x.r");
  for (int i = 0; i < 1000; ++i) {
    auto* range = ranges.mutable_message_type(0)->add_reserved_range();
    range->set_start(10 + i);
    range->set_end(11 + i);
  }
  EXPECT_THAT(problem_of(foreign_offer(ranges)), HasSubstr("too many ranges"));

  FileDescriptorProto wide = foreign_file("x.r");
  for (int i = 0; i < 2000; ++i) {
    auto* field = wide.mutable_message_type(0)->add_field();
    field->set_name("f" + std::to_string(i));
    field->set_number(i + 1);
    field->set_type(FieldDescriptorProto::TYPE_BOOL);
    field->set_label(FieldDescriptorProto::LABEL_OPTIONAL);
  }
  EXPECT_THAT(problem_of(foreign_offer(wide)), HasSubstr("too many fields"));

  FileDescriptorProto option = foreign_file("x.r");
  auto* unresolved = option.mutable_message_type(0)->mutable_options()->add_uninterpreted_option();
  unresolved->add_name()->set_name_part("deprecated");
  unresolved->mutable_name(0)->set_is_extension(false);
  unresolved->set_identifier_value("true");
  EXPECT_THAT(problem_of(foreign_offer(option)), HasSubstr("not resolved"));
}

TEST(Catalog, AChainOfManyTypesIsStillServed) {
  FileDescriptorProto file = foreign_file("x.r");
  for (int i = 0; i < 900; ++i) {
    DescriptorProto* type = i == 0 ? file.mutable_message_type(0) : file.add_message_type();
    type->set_name(i == 0 ? "M" : "M" + std::to_string(i));
    auto* field = type->add_field();
    field->set_name("f");
    field->set_number(1);
    field->set_label(FieldDescriptorProto::LABEL_OPTIONAL);
    field->set_type(FieldDescriptorProto::TYPE_MESSAGE);
    field->set_type_name(i == 899 ? ".x.M" : ".x.M" + std::to_string(i + 1));
  }
  const Built built = build({foreign_offer(file)});
  ASSERT_NE(built.catalog->find("x.r"), nullptr) << built.problems.front();
  EXPECT_NE(built.catalog->new_request(*built.catalog->find("x.r")), nullptr);
  EXPECT_THAT(built.catalog->openrpc(), HasSubstr("x.M899"));
}

// A worker may call anything google.protobuf.Timestamp: it is then an ordinary message, not a
// crash.
TEST(Catalog, TakesAFalseWellKnownTypeForAnOrdinaryMessage) {
  FileDescriptorProto fake;
  fake.set_name("google/protobuf/timestamp.proto");
  fake.set_package("google.protobuf");
  for (const char* name :
       {"Timestamp", "Struct", "Value", "ListValue", "Int32Value", "FieldMask"}) {
    DescriptorProto* type = fake.add_message_type();
    type->set_name(name);
    auto* field = type->add_field();
    field->set_name("seconds");
    field->set_number(1);
    field->set_label(FieldDescriptorProto::LABEL_OPTIONAL);
    field->set_type(FieldDescriptorProto::TYPE_MESSAGE);
    field->set_type_name(".google.protobuf.Timestamp");
  }
  FileDescriptorProto file = foreign_file("x.r");
  file.add_dependency(fake.name());
  for (int i = 0; i < fake.message_type_size(); ++i) {
    auto* field = file.mutable_message_type(0)->add_field();
    field->set_name("f" + std::to_string(i));
    field->set_number(i + 1);
    field->set_label(FieldDescriptorProto::LABEL_OPTIONAL);
    field->set_type(FieldDescriptorProto::TYPE_MESSAGE);
    field->set_type_name(".google.protobuf." + fake.message_type(i).name());
  }
  FileDescriptorSet set;
  ASSERT_TRUE(set.ParseFromString(foreign_offer(file).descriptor_set()));
  set.mutable_file()->Add()->CopyFrom(fake);
  set.mutable_file()->SwapElements(set.file_size() - 1, set.file_size() - 2);
  v1::ServiceOffer offer;
  offer.set_service("x.S");
  offer.set_descriptor_set(set.SerializeAsString());

  const Built built = build({offer});
  ASSERT_NE(built.catalog->find("x.r"), nullptr) << built.problems.front();
  const auto request = built.catalog->new_request(*built.catalog->find("x.r"));
  const std::string json = R"({"f0":{"seconds":{}},"f1":{},"f2":{},"f3":{},"f4":{},"f5":{}})";
  rapidjson::Document document;
  ASSERT_TRUE(parse_json(json, {}, document));
  const Result<void> result = json_to_message(document, *request);
  ASSERT_TRUE(result) << result.error().detail;
  std::string out;
  append_json(*request, out);
  EXPECT_EQ(out, json);
}

TEST(Catalog, RefusesRolesAndStreamsThatCannotWork) {
  FileDescriptorProto role = foreign_file("x.r");
  auto* field = role.mutable_message_type(0)->add_field();
  field->set_name("id");
  field->set_number(1);
  field->set_label(FieldDescriptorProto::LABEL_OPTIONAL);
  field->set_type(FieldDescriptorProto::TYPE_INT32);
  field->mutable_options()->SetExtension(v1::role, v1::SESSION_ID);
  EXPECT_THAT(problem_of(foreign_offer(role)), HasSubstr("x.M.id"));

  FileDescriptorProto stream = role;
  stream.mutable_service(0)->mutable_method(0)->set_server_streaming(true);
  field = stream.mutable_message_type(0)->mutable_field(0);
  field->clear_options();
  field->mutable_options()->SetExtension(v1::notification, "x.item");
  EXPECT_THAT(problem_of(foreign_offer(stream)), HasSubstr("x.M.id"));
  field->set_type(FieldDescriptorProto::TYPE_MESSAGE);
  field->set_type_name(".x.M");
  field->mutable_options()->SetExtension(v1::notification, "events.event");
  EXPECT_THAT(problem_of(foreign_offer(stream)), HasSubstr("events.event"));
}

TEST(Catalog, OutlivesTheOffersItWasMadeOf) {
  std::shared_ptr<const Catalog> catalog;
  {
    const std::vector<v1::ServiceOffer> offers{test_offer()};
    catalog = Catalog::build(offers, nullptr);
  }
  EXPECT_NE(catalog->new_request(*catalog->find("test.say")), nullptr);
}

}  // namespace
}  // namespace runbus::wire
