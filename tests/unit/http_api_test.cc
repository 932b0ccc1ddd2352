// The routes, called without a server.
#include <future>
#include <nlohmann/json.hpp>

#include "bus/embedded/embedded_transport.h"
#include "chain/v1/chain.pb.h"
#include "events/registry.h"
#include "gateway/api.h"
#include "gateway/event_reader.h"
#include "gateway/forwarder.h"
#include "runtime/inbox.h"
#include "runtime/shard.h"
#include "tests/support/shortened_transport.h"
#include "tests/support/test_support.h"

namespace leat::gateway {
namespace {

using nlohmann::json;
using test::Must;

constexpr auto kPatience = std::chrono::seconds(60);
constexpr const char* kHolder = "0xaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

// A pipeline whose services run once they are started.
struct World {
  test::TempFolder temp;
  std::unique_ptr<bus::EmbeddedTransport> transport;
  std::unique_ptr<ingest::Service> feed;
  std::unique_ptr<ledger::Service> ledger;
  std::unique_ptr<balances::Service> balances;
  std::unique_ptr<Api> api;

  World() {
    transport = Must(bus::EmbeddedTransport::Open(temp.Sub("bus")));
    ingest::ServiceOptions feed_options;
    feed_options.path = temp.Sub("ingest");
    feed = Must(ingest::Service::Open(feed_options, transport.get()));
    Must(feed->Own({}));
    Must(transport->Mount(ingest::kChainBlocksTopic, 0, "ingest", feed->shard()->log()));
    ledger::ServiceOptions ledger_options;
    ledger_options.path = temp.Sub("ledger");
    ledger_options.input_topic = ingest::kChainBlocksTopic;
    ledger = Must(ledger::Service::Open(ledger_options, transport.get()));
    Must(transport->Mount(ledger::kLedgerEntriesTopic, 0, "ledger", ledger->shard()->log()));
    balances::ServiceOptions balances_options;
    balances_options.path = temp.Sub("balances");
    balances_options.topic = ledger::kLedgerEntriesTopic;
    balances = Must(balances::Service::Open(balances_options, transport.get()));
  }
  void Start() {
    Must(ledger->Own({}));
    Must(balances->Own({}));
  }
  void OpenApi() { api = std::make_unique<Api>(MakeServices()); }
  Services MakeServices() {
    Services services;
    services.transport = transport.get();
    services.feeds = {feed.get()};
    services.ledgers = {ledger.get()};
    services.balances = {balances.get()};
    services.error = [this]() -> Status {
      LEAT_TRY(ledger->error());
      return balances->error();
    };
    services.logs = [this] {
      const auto held = [](const eventstore::Log* log) {
        return std::shared_ptr<const eventstore::Log>(std::shared_ptr<void>(), log);
      };
      return std::vector<std::pair<std::string, std::shared_ptr<const eventstore::Log>>>{
          {"bus", held(&transport->shared_log())},
          {"chain.blocks", held(feed->shard()->log())},
          {"ledger.entries", held(ledger->shard()->log())}};
    };
    return services;
  }
  void SubmitOpening(std::string_view chain) {
    Must(feed->SubmitOpening(chain, {{Must(core::ParseAddress(kHolder)), Amount(7)}},
                             std::chrono::seconds(5)));
  }
  void CatchUp() {
    REQUIRE(ledger->WaitApplied(Must(transport->End(ingest::kChainBlocksTopic, 0)).offset, kPatience));
    REQUIRE(balances->WaitApplied(ledger->decided(), kPatience));
  }
  // The answer, which must have this status.
  json Get(std::string_view target, int status = 200) const {
    HttpRequest request;
    request.method = "GET";
    request.path = target.substr(0, target.find('?'));
    request.query = target.substr(std::min(target.size(), request.path.size() + 1));
    HttpResponse response;
    api->Handle(request, response);
    CAPTURE(target);
    CAPTURE(response.body());
    CHECK(response.status() == status);
    json answer = json::parse(response.body(), nullptr, false);
    REQUIRE(answer.is_object());
    return answer;
  }
};

TEST_CASE("http api: a lookup is blocking when it may wait") {
  for (const std::string_view query : {"", "?at_block=5", "?asset=ETH&chain=eip155:1", "?at_time=1"}) {
    CHECK_FALSE(Api::IsBlocking("GET", "/api/balance/0x1" + std::string(query)));
  }
  for (const std::string_view query : {"?after=x", "?at_position=x", "?at_block=5&after=x", "?%61fter=x"}) {
    CHECK(Api::IsBlocking("GET", "/api/balance/0x1" + std::string(query)));
  }
  CHECK(Api::IsBlocking("GET", "/health/ready"));  // asks the transport
  CHECK_FALSE(Api::IsBlocking("GET", "/health/live"));
  CHECK(Api::IsBlocking("GET", "/api/balance/0x1/statement"));
  CHECK(Api::IsBlocking("GET", "/api/balances"));
}

TEST_CASE("http api: a request by topics") {
  World world;
  world.Start();
  const auto requester = Must(runtime::Requester::Open(world.transport.get(), "test"));
  Must(world.transport->CreateTopic("questions", 2));
  runtime::ResponderOptions options;
  options.topic = "questions";
  options.partition = 1;
  const auto responder = Must(runtime::Responder::Start(
      world.transport.get(), options,
      [](const events::EventView& request) -> Result<events::Event> {
        if (request.subject == "refuse") return Fail(ErrorClass::kConflict, "no", "ask nicely");
        events::EventView reply = request;
        reply.id = {};
        return events::Event(reply);
      }));
  Services services;
  services.transport = world.transport.get();
  services.requester = [&]() -> Result<runtime::Requester*> { return requester.get(); };
  const Api api(services);
  const auto ask = [&](std::string_view query, std::string_view body,
                       std::string_view content_type = "application/cloudevents+json") {
    HttpRequest request;
    request.method = "POST";
    request.path = "/api/requests";
    request.query = query;
    request.body = body;
    request.content_type = content_type;
    HttpResponse response;
    const_cast<Api&>(api).Handle(request, response);
    if (const auto begin = response.TakeDeferred()) {
      std::promise<void> answered;
      begin([&] { answered.set_value(); });
      answered.get_future().wait();
    }
    return response;
  };
  const std::string kQuestion =
      R"({"specversion":"1.0","id":"q","type":"chain.block_reverted.v1","data":{"chain":"x"}})";
  const auto reply = ask("topic=questions&partition=1&timeout_ms=60000", kQuestion);
  CHECK(reply.status() == 200);
  CHECK(reply.content_type() == "application/cloudevents+json");
  const json answer = json::parse(reply.body());
  CHECK(answer["correlationid"] == "q");
  CHECK(answer["data"]["chain"] == "x");
  // The service's own error, as its class says.
  json refused = json::parse(kQuestion);
  refused["subject"] = "refuse";
  refused["id"] = "r";
  const auto conflict = ask("topic=questions&partition=1", refused.dump());
  CHECK(conflict.status() == 409);
  CHECK(conflict.body().find("no (ask nicely)") != std::string::npos);
  // Nobody answers on partition 0.
  const auto late = ask("topic=questions&partition=0&timeout_ms=1", kQuestion);
  CHECK(late.status() == 503);
  CHECK(late.body().find("questions") != std::string::npos);
  CHECK(ask("topic=nowhere", kQuestion).status() == 404);
  CHECK(ask("topic=questions&partition=2", kQuestion).status() == 404);
  CHECK(ask("topic=ledger.entries&partition=0", kQuestion).status() == 409);
  for (const char* query : {"", "topic=", "topic=a%20b", "topic=questions&timeout_ms=0",
                            "topic=questions&timeout_ms=60001", "topic=questions&partition=x",
                            "topic=questions&partition=4294967296", "topic=questions&x=1"}) {
    CAPTURE(query);
    CHECK(ask(query, kQuestion).status() == 400);
  }
  CHECK(ask("topic=questions", kQuestion, "text/plain").status() == 400);
  CHECK(ask("topic=questions", "[" + kQuestion + "," + kQuestion + "]").status() == 400);
  CHECK(ask("topic=questions", "[]").status() == 400);
  CHECK(ask("topic=questions", R"({"specversion":"1.0","type":"runtime.shard_claimed.v1"})")
            .status() == 400);
  requester->Stop();
  CHECK(ask("topic=questions&partition=1", kQuestion).status() == 503);
  services.requester = nullptr;
  Api without(services);
  HttpRequest request;
  request.method = "GET";
  request.path = "/api/requests";
  HttpResponse response;
  without.Handle(request, response);
  CHECK(response.status() == 405);
}

TEST_CASE("http api: what another process forwards opens no other door") {
  World world;
  world.Start();
  Forwarder nobody(nullptr);
  Services services = world.MakeServices();
  services.admin_token = "secret";
  services.forwarder = &nobody;
  Api api(std::move(services));
  const auto status = [&](std::string_view method, std::string_view path, std::string_view query,
                          const std::function<void(HttpRequest*)>& change) {
    HttpRequest request;
    request.method = method;
    request.path = path;
    request.query = query;
    request.body = R"({"specversion":"1.0","type":"chain.block_reverted.v1","source":"s","id":"1","data":{}})";
    request.content_type = "application/cloudevents+json";
    change(&request);
    HttpResponse response;
    api.Handle(request, response);
    return response.status();
  };
  const auto forwarded = [](HttpRequest* request) { request->trusted = request->forwarded = true; };
  // Only what is answered for others is: an admin's routes are not, whoever wrote the request.
  for (const char* path : {"/api/admin/verify", "/api/admin/rebuild", "/api/events", "/api/topics"}) {
    CHECK(status("GET", path, "", forwarded) == 404);
    CHECK(status("POST", path, "topic=notes", forwarded) == 404);
  }
  const std::string known = "chain=eip155:1&hash=0x" + std::string(64, '0');
  CHECK(status("GET", "/api/admin/known", known, forwarded) == 200);
  // Nor can everybody write such a request.
  const auto stranger = [](HttpRequest*) {};
  const auto admin = [](HttpRequest* request) { request->authorization = "Bearer secret"; };
  for (const char* path : {"/api/events", "/api/requests"}) {
    CHECK(status("POST", path, "topic=leat.requests.ingest", stranger) == 401);
    CHECK(status("POST", path, "topic=leat.requests.ingest", admin) != 401);
  }
  CHECK(status("POST", "/api/events", "topic=notes", stranger) == 201);
}

TEST_CASE("http api: what is no UTF-8 is refused in UTF-8") {
  World world;
  world.Start();
  world.OpenApi();
  for (const char* target : {"/api/balance/%ff", "/api/supply?chain=%ff", "/api/events?%ff=1",
                             "/api/events?format=%e2%82%ac%e2%82%ac%e2%82%ac%e2%82%ac%e2%82%ac%e2%82%ac"
                             "%e2%82%ac%e2%82%ac%e2%82%ac%e2%82%ac%e2%82%ac"}) {
    HttpRequest request;
    request.method = "GET";
    const std::string_view whole = target;
    request.path = whole.substr(0, whole.find('?'));
    request.query = whole.substr(std::min(whole.size(), request.path.size() + 1));
    HttpResponse response;
    world.api->Handle(request, response);
    CHECK(response.status() >= 400);
    CHECK(response.status() < 500);
    CHECK_MESSAGE(json::accept(response.body()), response.body());
  }
}

events::Event Owned(uint64_t epoch, uint64_t position) {
  const std::string source = runtime::OwnedSource("s-0", 0xabc, epoch);
  const std::string id = "owned " + std::to_string(position);
  events::EventView view;
  view.type = "test.happened.v1";
  view.id = id;
  view.source = source;
  view.position = position;
  return events::Event(view);
}

TEST_CASE("http api: events show repetitions of nobody's, and what counts of an owner behind them") {
  World world;
  world.OpenApi();
  Must(world.transport->CreateTopic("t", 1));
  const auto owned = [](uint64_t position) { return Owned(1, position); };
  // The repetition is no position of the owner's log.
  Must(world.transport->PublishTo(
      "t", 0, {test::DataEvent("x"), test::DataEvent("x"), runtime::MakeClaim("s-0", 1, "one"),
               owned(1), owned(2), owned(2), owned(1), owned(3)}));
  std::string ids;
  const json answer = world.Get("/api/events?topic=t");
  for (const auto& event : answer["events"]) ids += event["id"].get<std::string>() + ", ";
  CHECK(ids == "id, id, owned 1, owned 2, owned 3, ");
}

TEST_CASE("http api: events from somewhere in the middle of what an owner writes") {
  World world;
  world.OpenApi();
  Must(world.transport->CreateTopic("t", 1));
  Must(world.transport->PublishTo(
      "t", 0, {runtime::MakeClaim("s-0", 1, "one"), Owned(1, 0), Owned(1, 1),
               runtime::MakeClaim("s-0", 2, "two"), Owned(1, 2), Owned(2, 2), Owned(2, 3),
               runtime::MakeClaim("s-0", 3, "three"), Owned(2, 4), Owned(3, 4),
               test::DataEvent("a stranger's"), Owned(3, 5), Owned(2, 5),
               runtime::MakeClaim("s-0", 4, "four"), Owned(4, 6)}));
  const std::string expected[] = {"0123456", "0123456", "123456", "23456", "223456",
                                  "23456",   "3456",    "456",    "4456",  "456",
                                  "?56",     "56",      "56",     "6",     "6"};
  for (size_t from = 0; from < std::size(expected); ++from) {
    CAPTURE(from);
    const json answer = world.Get("/api/events?topic=t&from=t%2F0@" + std::to_string(from));
    std::string positions;
    for (const auto& event : answer["events"]) {
      const std::string id = event["id"];
      positions += id.starts_with("owned ") ? id.substr(std::string_view("owned ").size()) : "?";
    }
    // What one who had lost the partition wrote last cannot be told from there: the claim is before it.
    CHECK(positions == expected[from]);
  }
}

TEST_CASE("http api: a follower gives each partition its turn") {
  test::TempFolder temp;
  const auto transport = Must(bus::EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("notes", 2));
  Must(transport->PublishTo("notes", 1, {test::DataEvent("quiet")}));
  // One more comes to the other one at every look.
  class Busy final : public test::ForwardingTransport {
   public:
    using ForwardingTransport::ForwardingTransport;
    Result<bus::PartitionEnd> End(std::string_view topic, uint32_t partition) override {
      if (partition == 0) Must(inner_->PublishTo(topic, 0, {test::DataEvent("busy")}));
      return inner_->End(topic, partition);
    }
  } busy(transport.get());
  EventQuery query;
  query.topic = "notes";
  query.follow = true;
  const auto reader = Must(EventReader::Open(query, &busy));
  std::string seen;
  std::vector<EventReader::Item> items;
  for (int step = 0; step < 3; ++step) {
    Must(reader->Step(&items));
    for (const auto& item : items) seen += std::string(item.message->event.data) + " ";
  }
  CHECK(seen == "busy busy quiet busy ");
}

TEST_CASE("http api: events begin with what retention has left, but for a position that was asked for") {
  test::TempFolder temp;
  const auto transport = Must(bus::EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("notes", 1));
  for (const char* data : {"0", "1", "2", "3"}) {
    Must(transport->Publish("notes", {test::DataEvent(data)}));
  }
  test::Shortened shortened(transport.get(), 2);
  EventQuery query;
  SUBCASE("all topics") {}
  SUBCASE("one topic") { query.topic = "notes"; }
  const auto reader = Must(EventReader::Open(query, &shortened));
  std::string seen;
  std::vector<EventReader::Item> items;
  while (!reader->Done()) {
    Must(reader->Step(&items));
    for (const auto& item : items) seen += item.message->event.data;
  }
  CHECK(seen == "23");
  query.from = events::Position{"notes", 0, 0, 0};  // as the page before ends where a partition begins
  Must(Must(EventReader::Open(query, &shortened))->Step(&items));
  CHECK(items.size() == 2);
  query.from = events::Position{"notes", 0, 1, 0};
  CHECK(test::ClassOf(Must(EventReader::Open(query, &shortened))->Step(&items)) ==
        ErrorClass::kNotFound);
}

TEST_CASE("http api: a follower misses nothing that is published while it looks for the end") {
  test::TempFolder temp;
  const auto transport = Must(bus::EmbeddedTransport::Open(temp.Sub("bus")));
  Must(transport->CreateTopic("notes", 1));
  // One more comes right after every look, as long as there are some.
  class Growing final : public test::ForwardingTransport {
   public:
    using ForwardingTransport::ForwardingTransport;
    Result<bus::PartitionEnd> End(std::string_view topic, uint32_t partition) override {
      auto end = inner_->End(topic, partition);
      if (end && end->offset < 10) {
        Must(inner_->Publish(topic, {test::DataEvent(std::to_string(end->offset))}));
      }
      return end;
    }
  } growing(transport.get());
  EventQuery query;
  query.topic = "notes";
  query.follow = true;
  const auto reader = Must(EventReader::Open(query, &growing));
  std::string seen;
  std::vector<EventReader::Item> items;
  for (int step = 0; step < 20; ++step) {
    Must(reader->Step(&items));
    for (const auto& item : items) seen += item.message->event.data;
  }
  CHECK(reader->CaughtUp());
  CHECK(seen == "0123456789");
  query.to = events::Position{"notes", 0, 5, 0};
  CHECK(test::ClassOf(EventReader::Open(query, &growing)) == ErrorClass::kInvalid);
}

TEST_CASE("http api: after and at_position wait for what was written") {
  World world;
  world.OpenApi();
  for (const char* parameter : {"after", "at_position"}) {
    world.Get("/api/balance/" + std::string(kHolder) + "?" + parameter + "=chain.blocks%2F0@0", 404);
    world.Get("/api/balance/" + std::string(kHolder) + "?" + parameter + "=nonsense", 400);
  }
  world.SubmitOpening("eip155:1");
  Must(world.ledger->Own({}));
  const std::string target = "/api/balance/" + std::string(kHolder) + "?after=chain.blocks%2F0@0";
  auto answer = std::async(std::launch::async, [&] { return world.Get(target); });
  CHECK(answer.wait_for(std::chrono::milliseconds(50)) == std::future_status::timeout);
  Must(world.balances->Own({}));
  const json now = answer.get();
  CHECK(now["balance_wei"] == "7");
  // The position of an answer, and that of its cause, lead back to it.
  for (const std::string& position : {now["as_of"]["position"].get<std::string>(),
                                      std::string("chain.blocks/0@0")}) {
    world.Get("/api/balance/" + std::string(kHolder) + "?after=" + PercentEncode(position));
    CHECK(world.Get("/api/balance/" + std::string(kHolder) + "?at_position=" +
                    PercentEncode(position))["balance_wei"] == "7");
  }
}

TEST_CASE("http api: ready once the balances reflect what was there at the start") {
  World world;
  world.SubmitOpening("eip155:1");
  world.OpenApi();
  CHECK(world.Get("/health")["ledger"]["lag"] == 1);
  CHECK(world.Get("/health/ready", 503)["detail"].get<std::string>().starts_with(
      "the ledger is 1 events behind"));
  Must(world.ledger->Own({}));
  REQUIRE(world.ledger->WaitApplied(1, kPatience));
  CHECK(world.Get("/health/ready", 503)["detail"].get<std::string>().starts_with(
      "the ledger is 0 events behind"));
  Must(world.balances->Own({}));
  world.CatchUp();
  CHECK(world.Get("/health/ready")["status"] == "ok");
}

TEST_CASE("http api: a rebuild that failed is an error of the ledger") {
  World world;
  world.SubmitOpening("eip155:1");
  world.Start();
  world.CatchUp();
  world.OpenApi();
  world.transport->Unmount(ingest::kChainBlocksTopic, 0);  // so that the rebuild does not find its input
  REQUIRE_FALSE(world.ledger->Rebuild(nullptr));
  CHECK_FALSE(world.ledger->error());
  CHECK(world.Get("/health/live", 503)["detail"].get<std::string>().find("rebuilding") !=
        std::string::npos);
}

events::Event Note(std::string_view subject, std::string_view chain = "eip155:1") {
  ledger::v1::BlockReopened message;
  message.set_chain(std::string(chain));
  test::EventParts parts;
  parts.type = events::kBlockReopened;
  parts.subject = subject;
  parts.data = message.SerializeAsString();
  return test::MakeEvent(parts);
}

TEST_CASE("http api: a page of events ends after some events looked at, and says where to go on") {
  constexpr int kEvents = 150'000;
  World world;
  world.OpenApi();
  Must(world.transport->CreateTopic("notes", 1));
  std::vector<events::Event> batch;
  for (int i = 0; i < kEvents; ++i) {
    batch.push_back(Note(i + 1 == kEvents ? "rare" : "common"));
    if (batch.size() < 10'000) continue;
    Must(world.transport->Publish("notes", batch));
    batch.clear();
  }
  json page = world.Get("/api/events?topic=notes&stream=rare");
  CHECK(page["events"].empty());
  REQUIRE(page["next"].is_string());
  page = world.Get("/api/events?topic=notes&stream=rare&from=" +
                   PercentEncode(page["next"].get<std::string>()));
  CHECK(page["events"].size() == 1);
  CHECK(page["next"].is_null());
}

TEST_CASE("http api: a page of events is bounded in bytes") {
  World world;
  world.OpenApi();
  Must(world.transport->CreateTopic("notes", 1));
  const std::string large(1u << 20, 'x');
  constexpr size_t kEvents = 20;
  for (size_t i = 0; i < kEvents; ++i) Must(world.transport->Publish("notes", {Note("large", large)}));
  std::string from;
  size_t events = 0;
  int pages = 0;
  for (bool more = true; more && pages < 100; ++pages) {
    const json page = world.Get("/api/events?topic=notes&limit=1000" + from);
    CHECK(page.dump().size() < 12u << 20);
    events += page["events"].size();
    more = page["next"].is_string();
    if (more) from = "&from=" + PercentEncode(page["next"].get<std::string>());
  }
  CHECK(events == kEvents);
  CHECK(pages > 1);
}

TEST_CASE("http api: streams are paged over all logs") {
  World world;
  for (const char* chain : {"eip155:1", "eip155:2", "eip155:3"}) world.SubmitOpening(chain);
  world.Start();
  world.CatchUp();
  world.OpenApi();
  const auto names = [&](const std::string& query, int limit) {
    std::vector<std::string> out;
    std::string after;
    for (bool more = true; more && out.size() < 100;) {
      const json page = world.Get("/api/streams?limit=" + std::to_string(limit) + query + after);
      CHECK(page["streams"].size() <= static_cast<size_t>(limit));
      for (const json& stream : page["streams"]) {
        out.push_back(stream["log"].get<std::string>() + "/" + stream["stream"].get<std::string>());
      }
      more = page["next"].is_string();
      if (more) after = "&after=" + PercentEncode(page["next"].get<std::string>());
    }
    return out;
  };
  const auto all = names("", 1000);
  CHECK(all.size() >= 6);
  for (const int limit : {1, 2, 3}) CHECK(names("", limit) == all);
  CHECK(names("&log=chain.blocks", 2) ==
        std::vector<std::string>{"chain.blocks/chain-eip155:1", "chain.blocks/chain-eip155:2",
                                 "chain.blocks/chain-eip155:3"});
  CHECK(names("&prefix=ledger-", 2) ==
        std::vector<std::string>{"ledger.entries/ledger-eip155:1", "ledger.entries/ledger-eip155:2",
                                 "ledger.entries/ledger-eip155:3"});
  world.Get("/api/streams?log=nothing", 404);
  world.Get("/api/streams?after=nothing", 400);
  world.Get("/api/streams?log=bus&after=chain.blocks%2Fchain-eip155:1", 400);
}

}  // namespace
}  // namespace leat::gateway
