#include "events/codec.h"

#include <doctest/doctest.h>
#include <google/protobuf/util/message_differencer.h>

#include <nlohmann/json.hpp>

#include "chain/v1/chain.pb.h"
#include "core/bytes.h"
#include "core/clock.h"
#include "events/position.h"
#include "events/registry.h"
#include "ledger/v1/ledger.pb.h"
#include "tests/support/random_message.h"
#include "tests/support/test_support.h"

namespace leat::events {
namespace {

using nlohmann::json;
using test::Below;
using test::Must;
using test::Random;

TEST_CASE("random messages of every registered type go to JSON and back, byte for byte") {
  const uint64_t seed = test::Seed(4711);
  INFO("LEAT_SEED=", seed);
  Random random(seed);
  const auto types = Registry::Global().Types();
  REQUIRE(types.size() >= 8);
  const int rounds = test::Full() ? 500 : 60;
  for (const std::string& type : types) {
    CAPTURE(type);
    const auto* descriptor = Registry::Global().Find(type);
    for (int i = 0; i < rounds; ++i) {
      const auto message = test::NewMessage(descriptor);
      test::FillRandomly(random, message.get());
      const std::string bytes = message->SerializeAsString();
      const std::string text = Must(DataToJson(type, bytes));
      REQUIRE(text.find('\n') == std::string::npos);
      REQUIRE(json::accept(text));
      const std::string again = Must(DataFromJson(type, text));
      if (again != bytes) {
        const auto other = test::NewMessage(descriptor);
        REQUIRE(other->ParseFromString(again));
        std::string difference;
        google::protobuf::util::MessageDifferencer differencer;
        differencer.ReportDifferencesToString(&difference);
        differencer.Compare(*message, *other);
        FAIL_CHECK(difference);
      }
      // And inside a CloudEvent.
      EventView view;
      view.type = type;
      view.id = "id";
      view.source = "s";
      view.data = bytes;
      const auto events = Must(EventsFromJson(EventToJson(view)));
      REQUIRE(events.size() == 1);
      REQUIRE((events[0].view().data == bytes));
    }
  }
}

TEST_CASE("fields in JSON look as their .proto says") {
  chain::v1::BlockObserved block;
  block.set_chain("eip155:1");
  block.mutable_header()->set_number(18446744073709551615u);
  block.mutable_header()->set_hash(std::string("\x00\xab\xff", 3));
  block.mutable_header()->set_difficulty(std::string("\x01\x00", 2));
  block.mutable_header()->set_base_fee_per_gas("");  // present and zero
  block.set_part(1);
  auto* transaction = block.add_transactions();
  transaction->set_outcome(chain::v1::OUTCOME_FAILURE);
  transaction->add_frames()->add_trace_address(3);
  const std::string text = Must(DataToJson(kBlockObserved, block.SerializeAsString()));
  CHECK(text ==
        R"({"chain":"eip155:1","header":{"number":"18446744073709551615","hash":"0x00abff",)"
        R"("difficulty":"256","base_fee_per_gas":"0"},"transactions":[{"outcome":"OUTCOME_FAILURE",)"
        R"("frames":[{"trace_address":[3]}]}],"part":1})");
}

TEST_CASE("data that JSON may say in several ways") {
  const auto parse = [](const char* text) {
    chain::v1::BlockObserved block;
    REQUIRE(block.ParseFromString(Must(DataFromJson(kBlockObserved, text))));
    return block;
  };
  CHECK(parse(R"({"header":{"number":5}})").header().number() == 5);
  CHECK(parse(R"({"header":{"number":"5"}})").header().number() == 5);
  CHECK(parse(R"({"header":{"gasUsed":7}})").header().gas_used() == 7);
  CHECK(parse(R"({"header":{"total_difficulty":256}})").header().total_difficulty() ==
        std::string("\x01\x00", 2));
  CHECK(parse(R"({"header":{"total_difficulty":"0"}})").header().total_difficulty().empty());
  CHECK(parse(R"({"header":{"hash":"0XAb"}})").header().hash() == "\xab");
  CHECK(parse(R"({"header":null,"transactions":null})").transactions_size() == 0);
  CHECK(parse(R"({"transactions":[{"outcome":2}]})").transactions(0).outcome() ==
        chain::v1::OUTCOME_FAILURE);
  CHECK(parse("{}").ByteSizeLong() == 0);
  CHECK(parse(" {\n\"part\" : 2 }\t").part() == 2);
}

TEST_CASE("what is wrong is named") {
  const auto error = [](const std::string& text) {
    const auto result = DataFromJson(kBlockObserved, text);
    CHECK_FALSE(result.has_value());
    if (result) return std::string("accepted");
    CHECK(result.error().error_class == ErrorClass::kInvalid);
    return result.error().message;
  };
  CHECK(error("{").starts_with("data is not JSON"));
  CHECK(error("").starts_with("data is not JSON"));
  CHECK(error("\"\xff\"").starts_with("data is not JSON"));
  CHECK(error("[]").starts_with("data: is not a JSON object"));
  CHECK(error("null").starts_with("data: is not a JSON object"));
  CHECK(error(R"({"nope":1})").starts_with("data.nope: is not a field of leat.chain.v1"));
  CHECK(error(R"({"header":3})").starts_with("data.header: is not a JSON object"));
  CHECK(error(R"({"header":{"number":"x"}})").starts_with("data.header.number:"));
  CHECK(error(R"({"header":{"number":-1}})").starts_with("data.header.number:"));
  CHECK(error(R"({"header":{"number":1.5}})").starts_with("data.header.number:"));
  CHECK(error(R"({"header":{"number":18446744073709551616}})").starts_with("data.header.number:"));
  CHECK(error(R"({"header":{"number":""}})").starts_with("data.header.number:"));
  CHECK(error(R"({"part":4294967296})").starts_with("data.part:"));
  CHECK(error(R"({"part":true})").starts_with("data.part:"));
  CHECK(error(R"({"header":{"hash":"ab"}})").starts_with("data.header.hash:"));
  CHECK(error(R"({"header":{"hash":"0xabc"}})").starts_with("data.header.hash:"));
  CHECK(error(R"({"header":{"hash":7}})").starts_with("data.header.hash:"));
  CHECK(error(R"({"header":{"total_difficulty":"-1"}})").starts_with("data.header.total_difficulty:"));
  CHECK(error(R"({"header":{"total_difficulty":-1}})").starts_with("data.header.total_difficulty:"));
  CHECK(error(R"({"header":{"total_difficulty":"1e3"}})")
            .starts_with("data.header.total_difficulty:"));
  // 2^256, and its like with 80 digits.
  CHECK(error(R"({"header":{"total_difficulty":"115792089237316195423570985008687907853269984665640564039457584007913129639936"}})")
            .starts_with("data.header.total_difficulty:"));
  CHECK(error(R"({"transactions":{}})").starts_with("data.transactions: is not a list"));
  CHECK(error(R"({"transactions":[{},{"outcome":"NOPE"}]})")
            .starts_with("data.transactions[1].outcome:"));
  CHECK(error(R"({"transactions":[{},{"outcome":4294967296}]})")
            .starts_with("data.transactions[1].outcome:"));
  CHECK(error(R"({"transactions":[{"frames":[{"trace_address":[1,-2]}]}]})")
            .starts_with("data.transactions[0].frames[0].trace_address[1]:"));
  CHECK(error(R"({"chain":5})").starts_with("data.chain:"));
  CHECK(error(R"({"excerpt":"yes"})").starts_with("data.excerpt:"));
  // Deep nesting is an error and no stack overflow.
  CHECK(error(std::string(1'000'000, '[')).starts_with("data is not JSON"));
  std::string deep(200'000, '[');
  deep += std::string(200'000, ']');
  CHECK(error(R"({"header":)" + deep + "}").starts_with("data.header: is not a JSON object"));
  CHECK(test::ClassOf(DataFromJson("no.such_type.v1", "{}")) == ErrorClass::kInvalid);
  CHECK(test::ClassOf(DataToJson("no.such_type.v1", "")) == ErrorClass::kInvalid);
  CHECK(test::ClassOf(DataToJson(kBlockObserved, "\xff\xff")) == ErrorClass::kInvalid);
}

TEST_CASE("text in JSON") {
  const auto text = [](std::string_view in) {
    std::string out;
    AppendJsonString(in, &out);
    return out;
  };
  CHECK(text("") == "\"\"");
  CHECK(text("plain") == "\"plain\"");
  CHECK(text("a\"b\\c\n\x01") == "\"a\\\"b\\\\c\\n\\u0001\"");
  CHECK(text("ä€😀") == "\"ä€😀\"");
  CHECK(text("a\xff" "b") == "\"a\xef\xbf\xbd" "b\"");
  Random random(1);
  for (int i = 0; i < 2000; ++i) {
    CHECK(json::accept(text(test::RandomBytes(random, Below(random, 20)))));
    const std::string good = test::RandomText(random, 10);
    CHECK(json::parse(text(good)).get<std::string>() == good);
  }
}

// ---- CloudEvents

json Parsed(const EventView& view, std::string_view position = {}) {
  const std::string text = EventToJson(view, position);
  CHECK(text.find('\n') == std::string::npos);
  return json::parse(text);
}

TEST_CASE("a CloudEvent in structured JSON, and back") {
  EventView view;
  view.type = kBlockReverted;
  view.id = "my id";
  view.source = "leat/ingest-0";
  view.subject = "chain-eip155:1";
  view.time_us = 1'438'269'988'250'000;
  view.partitionkey = "eip155:1";
  view.streamversion = 18446744073709551615u;
  view.correlationid = "c\"1";
  view.causationid = "c2";
  view.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  view.cause = Cause{"in", 1, 2, 3, 4};
  view.extensions = {{"tenant", "ä"}, {"x1", "1"}};
  chain::v1::BlockReverted data;
  data.set_chain("eip155:1");
  data.set_number(7);
  const std::string bytes = data.SerializeAsString();
  view.data = bytes;
  const json out = Parsed(view, "chain.blocks/0@5");
  CHECK(out == json::parse(R"({
    "specversion":"1.0","id":"my id","source":"leat/ingest-0","type":"chain.block_reverted.v1",
    "subject":"chain-eip155:1","time":"2015-07-30T15:26:28.25Z","datacontenttype":"application/json",
    "dataschema":"leat:leat.chain.v1.BlockReverted","partitionkey":"eip155:1",
    "streamversion":"18446744073709551615","position":"chain.blocks/0@5","correlationid":"c\"1",
    "causationid":"c2","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "cause":"in/1@2#3/4","tenant":"ä","x1":"1","data":{"chain":"eip155:1","number":"7"}})"));
  const auto events = Must(EventsFromJson(out.dump()));
  REQUIRE(events.size() == 1);
  const EventView& in = events[0].view();
  CHECK(in.type == view.type);
  CHECK(in.id == view.id);
  CHECK(in.source == view.source);
  CHECK(in.subject == view.subject);
  CHECK(in.time_us == view.time_us);
  CHECK(in.partitionkey == view.partitionkey);
  CHECK(in.correlationid == view.correlationid);
  CHECK(in.causationid == view.causationid);
  CHECK(in.traceparent == view.traceparent);
  CHECK((in.extensions == view.extensions));
  CHECK((in.data == view.data));
  CHECK((in.streamversion == view.streamversion));
  CHECK((in.cause == view.cause));
}

TEST_CASE("what a CloudEvent may leave out") {
  const int64_t before = core::SystemClock().NowUs();
  const auto events =
      Must(EventsFromJson(R"({"specversion":"1.0","type":"chain.block_reverted.v1"})"));
  const EventView& view = events[0].view();
  CHECK(view.id.size() == 36);
  CHECK(view.source == "leat");
  CHECK(view.time_us >= before);
  CHECK(view.time_us <= core::SystemClock().NowUs());
  CHECK(view.data.empty());
  CHECK(view.subject.empty());
  // Whoever reads makes nothing of its own.
  const auto kept = Must(EventsFromJson(R"({"specversion":"1.0","type":"chain.block_reverted.v1"})",
                                        Absent::kKept));
  CHECK(kept[0].view().id.empty());
  CHECK(kept[0].view().source.empty());
  CHECK(kept[0].view().time_us == 0);
  // A null is as good as absent.
  CHECK(EventsFromJson(R"({"specversion":"1.0","type":"chain.block_reverted.v1","id":null,"time":null})")
            .has_value());
}

std::string With(const std::string& more) {
  return R"({"specversion":"1.0","type":"chain.block_reverted.v1","source":"s","id":"i")" +
         (more.empty() ? "" : "," + more) + "}";
}

TEST_CASE("data_base64, and content types") {
  chain::v1::BlockReverted data;
  data.set_chain("x");
  data.set_number(300);
  const std::string bytes = data.SerializeAsString();  // 0a 01 78 10 ac 02
  const auto read = [](const std::string& more) {
    return std::string(Must(EventsFromJson(With(more)))[0].view().data);
  };
  CHECK(read(R"("data_base64":"CgF4EKwC")") == bytes);
  CHECK(read(R"("data_base64":"CgF4EKwC","datacontenttype":"application/protobuf")") == bytes);
  CHECK(read(R"("data":{"chain":"x","number":300},"datacontenttype":"application/json")") == bytes);
  CHECK(read(R"("data":{"chain":"x","number":300},"datacontenttype":"Application/JSON; charset=utf-8")") ==
        bytes);
  // {"chain":"x","number":300}
  CHECK(read(R"("data_base64":"eyJjaGFpbiI6IngiLCJudW1iZXIiOjMwMH0=","datacontenttype":"application/json")") ==
        bytes);
  const auto error = [](const std::string& more) {
    const auto events = EventsFromJson(With(more));
    CHECK_FALSE(events.has_value());
    return events ? std::string("accepted") : events.error().message;
  };
  CHECK(error(R"("data_base64":"CgF4EKw?")").starts_with("data_base64:"));
  CHECK(error(R"("data_base64":"C")").starts_with("data_base64:"));
  CHECK(error(R"("data_base64":7)").starts_with("data_base64:"));
  CHECK(error(R"("data_base64":"/////w==")").starts_with("data:"));
  CHECK(error(R"("data_base64":"","data":{})").starts_with("data:"));
  CHECK(error(R"("data_base64":"CgF4EKwC","datacontenttype":"text/plain")")
            .starts_with("datacontenttype:"));
  CHECK(error(R"("data":{},"datacontenttype":"text/xml")").starts_with("datacontenttype:"));
  CHECK(error(R"("data_base64":"CgF4EKwC","datacontenttype":"application/json")")
            .starts_with("data is not JSON"));
  CHECK(error(R"("data":"text")").starts_with("data:"));
  CHECK(error(R"("data":null)").starts_with("data:"));

  // Out: what cannot be read as its type stays as it is.
  EventView view;
  view.type = kBlockReverted;
  view.data = "\xff\xff";
  json out = Parsed(view);
  CHECK(out["data_base64"] == "//8=");
  CHECK(out["datacontenttype"] == "application/protobuf");
  view.type = "unknown.type.v1";
  view.data = "a";
  out = Parsed(view);
  CHECK(out["data_base64"] == "YQ==");
  CHECK_FALSE(out.contains("dataschema"));
  view.datacontenttype = "application/json";
  view.data = "{\"a\":\n[1,2]}";
  out = Parsed(view);
  CHECK(out["data"] == json::parse("{\"a\":[1,2]}"));
  CHECK(out["datacontenttype"] == "application/json");
  view.data = "{not json";
  CHECK(Parsed(view)["data_base64"] == "e25vdCBqc29u");
  view.datacontenttype = "text/plain";
  view.data = "ab";
  out = Parsed(view);
  CHECK(out["data_base64"] == "YWI=");
  CHECK(out["datacontenttype"] == "text/plain");
}

TEST_CASE("base64 of every length") {
  Random random(6);
  for (size_t size = 0; size < 70; ++size) {
    EventView view;
    view.type = "unknown.type.v1";
    const std::string bytes = test::RandomBytes(random, size);
    view.data = bytes;
    const json out = Parsed(view);
    if (size == 0) {
      CHECK_FALSE(out.contains("data_base64"));
      continue;
    }
    const std::string text = out["data_base64"];
    CHECK(text.size() == (size + 2) / 3 * 4);
  }
}

TEST_CASE("what is no CloudEvent is refused, naming the attribute") {
  const auto error = [](const std::string& text) {
    const auto events = EventsFromJson(text);
    CHECK_FALSE(events.has_value());
    if (events) return std::string("accepted");
    CHECK(events.error().error_class == ErrorClass::kInvalid);
    return events.error().message;
  };
  CHECK(error("") == "this is not JSON");
  CHECK(error("not json") == "this is not JSON");
  CHECK(error("3") == "this is not a CloudEvent");
  CHECK(error("\"x\"") == "this is not a CloudEvent");
  CHECK(error("null") == "this is not a CloudEvent");
  CHECK(error("{}") == "specversion: is missing");
  CHECK(error(R"({"hello":"world"})") == "specversion: is missing");
  CHECK(error(R"({"specversion":"0.3","type":"chain.block_reverted.v1"})").starts_with("specversion:"));
  CHECK(error(R"({"specversion":1.0,"type":"chain.block_reverted.v1"})").starts_with("specversion:"));
  CHECK(error(R"({"specversion":"1.0"})") == "type: is missing");
  const std::string unknown = error(R"({"specversion":"1.0","type":"no.such.v9"})");
  CHECK(unknown == "type: \"no.such.v9\" is not a known event type");
  CHECK(EventsFromJson(R"({"specversion":"1.0","type":"no.such.v9"})").error().remedy.find(
            "ledger.entries_posted.v1") != std::string::npos);
  CHECK(error(With(R"("subject":7)")).starts_with("subject:"));
  CHECK(error(With(R"("subject":"")")).starts_with("subject:"));
  CHECK(error(With(R"("time":"yesterday")")).starts_with("time:"));
  CHECK(error(With(R"("time":"2015-02-29T00:00:00Z")")).starts_with("time:"));
  CHECK(error(With(R"("partitionkey":")" + std::string(kAttributeBytesMax + 1, 'x') + "\""))
            .starts_with("partitionkey:"));
  for (const char* cause : {"x", "t/0@1", "t/0@1#", "t/0@1#1", "t/0@1#1/", "t/0@1#0/1", "t/0@1#2/1", "t/0@1#/1",
                            "t/0@1#1/4294967296", "t@1#1/1", "t/0@1#1/1/1", "#/"}) {
    CAPTURE(cause);
    CHECK(error(With("\"cause\":\"" + std::string(cause) + "\"")).starts_with("cause:"));
  }
  for (const char* version : {"\"x\"", "\"-1\"", "\"18446744073709551616\"", "5"}) {
    CHECK(error(With("\"streamversion\":" + std::string(version))).starts_with("streamversion:"));
  }
  CHECK(error(With(R"("Upper":"x")")).starts_with("Upper:"));
  CHECK(error(With(R"("a-b":"x")")).starts_with("a-b:"));
  CHECK(error(With(R"("ext":{})")).starts_with("ext:"));
  CHECK(error(With(R"("ext":[1])")).starts_with("ext:"));
  CHECK(error(With(R"("ext":")" + std::string(kAttributeBytesMax + 1, 'x') + "\"")).starts_with("ext:"));
  std::string many;
  for (size_t i = 0; i <= kExtensionsMax; ++i) {
    many += (i > 0 ? "," : "") + std::string("\"e") + std::to_string(i) + "\":\"v\"";
  }
  CHECK(error(With(many)).find("extensions") != std::string::npos);
  // In a batch, which one.
  CHECK(error("[" + With("") + "," + With(R"("time":"x")") + "]").starts_with("event 1: time:"));
  CHECK(error("[3]").starts_with("event 0:"));
  CHECK(error("[[]]").starts_with("event 0:"));
}

TEST_CASE("a batch") {
  CHECK(Must(EventsFromJson("[]")).empty());
  std::string text = "[";
  for (int i = 0; i < 50; ++i) {
    text += (i > 0 ? "," : "") + With("\"n\":" + std::to_string(i));
  }
  const auto events = Must(EventsFromJson(text + "]"));
  REQUIRE(events.size() == 50);
  for (size_t i = 0; i < events.size(); ++i) {
    REQUIRE(events[i].view().extensions.size() == 1);
    CHECK(events[i].view().extensions[0].second == std::to_string(i));
  }
}

TEST_CASE("a batch of more events than one publish may hold") {
  std::string text = "[";
  for (size_t i = 0; i <= kEventsMax; ++i) text += i > 0 ? ",{}" : "{}";
  const auto events = EventsFromJson(text + "]");
  CHECK(test::ClassOf(events) == ErrorClass::kInvalid);
  CHECK(events.error().message.find("10001") != std::string::npos);
  CHECK(events.error().remedy.find("10000") != std::string::npos);
}

TEST_CASE("extensions may be numbers and booleans; one that is null is absent") {
  const auto events = Must(EventsFromJson(With(R"("n":-5,"t":true,"s":"x","z":null)")));
  std::map<std::string, std::string> extensions;
  for (const auto& [name, value] : events[0].view().extensions) {
    extensions.emplace(name, value);
  }
  CHECK(extensions == std::map<std::string, std::string>{{"n", "-5"}, {"t", "true"}, {"s", "x"}});
}

TEST_CASE("flipped characters of an event in JSON never crash") {
  const uint64_t seed = test::Seed(808);
  INFO("LEAT_SEED=", seed);
  Random random(seed);
  ledger::v1::EntriesPosted posting;
  posting.set_chain("eip155:1");
  posting.add_legs()->set_magnitude("\x01");
  EventView view;
  view.type = kEntriesPosted;
  const std::string data = posting.SerializeAsString();
  view.data = data;
  view.extensions = {{"ext", "v"}};
  const std::string good = EventToJson(view);
  for (int i = 0; i < 20'000; ++i) {
    std::string bad = good;
    for (uint64_t flips = 1 + Below(random, 4); flips > 0; --flips) {
      bad[Below(random, bad.size())] = static_cast<char>(random());
    }
    if (Below(random, 5) == 0) bad.resize(Below(random, bad.size()));
    const auto events = EventsFromJson(bad);
    if (events) {
      for (const auto& event : *events) CHECK(CheckEvent(event.view()).has_value());
    }
  }
}

TEST_CASE("CheckEvent") {
  EventView view;
  view.type = kBlockReverted;
  CHECK(CheckEvent(view).has_value());
  view.datacontenttype = kProtobufContentType;
  CHECK(CheckEvent(view).has_value());
  view.data = "\xff";
  CHECK(CheckEvent(view).error().message.starts_with("data:"));
  view.data = "";
  view.datacontenttype = "text/plain";
  CHECK(CheckEvent(view).error().message.starts_with("datacontenttype:"));
  view.datacontenttype = "";
  view.type = "unknown.v1";
  CHECK(CheckEvent(view).error().message.starts_with("type:"));
}

// ---- the registry

TEST_CASE("the registry") {
  const auto types = Registry::Global().Types();
  CHECK(std::is_sorted(types.begin(), types.end()));
  for (const std::string& type : types) {
    CAPTURE(type);
    const auto* descriptor = Registry::Global().Find(type);
    REQUIRE(descriptor != nullptr);
    // "<domain>.<event>.v<N>" is the message <Event> of package leat.<domain>.v<N>.
    const size_t dot = type.find('.');
    const size_t last = type.rfind(".v");
    REQUIRE(dot < last);
    CHECK(descriptor->file()->package() ==
          "leat." + type.substr(0, dot) + type.substr(last));
    std::string camel;
    bool upper = true;
    for (const char c : type.substr(dot + 1, last - dot - 1)) {
      if (c == '_') {
        upper = true;
        continue;
      }
      camel += upper ? static_cast<char>(std::toupper(c)) : c;
      upper = false;
    }
    CHECK(descriptor->name() == camel);
    CHECK(Registry::SchemaOf(descriptor) == "leat:" + descriptor->full_name());
  }
  CHECK(Registry::Global().Find("nope") == nullptr);
  CHECK(Registry::Global().Find("") == nullptr);
  CHECK(test::ClassOf(Registry::Global().Require("nope")) == ErrorClass::kInvalid);
}

// ---- positions

TEST_CASE("position tokens") {
  CHECK(FormatPosition("ledger.entries", 0, 42, 0) == "ledger.entries/0@42");
  CHECK(FormatPosition("t", 7, 18446744073709551615u, 0xab) == "t/7@18446744073709551615~000000ab");
  const auto position = Must(ParsePosition("a.b-c_d/12@34~0000beef"));
  CHECK(position == Position{"a.b-c_d", 12, 34, 0xbeef});
  CHECK(Must(ParsePosition("t/0@0")) == Position{"t", 0, 0, 0});
  for (const char* bad :
       {"", "/", "@", "t", "t/0", "t@0", "/0@0", "t/@0", "t/0@", "t/0@x", "t/x@0", "t/-1@0", "t/0@-1",
        "t/0@0~", "t/0@0~123", "t/0@0~123456789", "t/0@0~0000000g", "t/4294967296@0",
        "t/0@18446744073709551616", "a b/0@0", "../0@0", "t/0@0 ", " t/0@0", "t@0/0", "t/0@0~-0000001",
        "t/0@0,", ",t/0@0", "t/0@0,,t/0@0"}) {
    CAPTURE(bad);
    CHECK(test::ClassOf(ParsePositions(bad)) == ErrorClass::kInvalid);
    CHECK(test::ClassOf(ParsePosition(bad)) == ErrorClass::kInvalid);
  }
  CHECK(test::ClassOf(ParsePosition("t/0@1,t/0@2")) == ErrorClass::kInvalid);
}

TEST_CASE("tokens of several positions go out and in") {
  Random random(10);
  for (int i = 0; i < 500; ++i) {
    std::vector<Position> positions(1 + Below(random, 5));
    for (auto& position : positions) {
      position.topic = "topic." + std::to_string(Below(random, 100));
      position.partition = static_cast<uint32_t>(random());
      position.offset = random();
      position.incarnation = Below(random, 3) == 0 ? 0 : static_cast<uint32_t>(random());
    }
    CHECK(Must(ParsePositions(FormatPositions(positions))) == positions);
  }
  std::vector<Position> many(kPositionsMax, Position{"t", 0, 0, 0});
  CHECK(ParsePositions(FormatPositions(many)).has_value());
  many.push_back({"t", 0, 0, 0});
  CHECK(test::ClassOf(ParsePositions(FormatPositions(many))) == ErrorClass::kInvalid);
}

}  // namespace
}  // namespace leat::events
