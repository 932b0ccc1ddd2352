// Request and reply over the embedded transport.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <latch>
#include <map>
#include <set>
#include <thread>

#include "bus/embedded/embedded_transport.h"
#include "events/registry.h"
#include "runtime/request.h"
#include "runtime/v1/runtime.pb.h"
#include "tests/support/forwarding_transport.h"
#include "tests/support/test_support.h"

namespace leat::runtime {
namespace {

using bus::EmbeddedTransport;
using std::chrono::milliseconds;
using test::ClassOf;
using test::Must;
using test::TempFolder;

constexpr auto kPatience = std::chrono::seconds(60);
constexpr auto kLong = milliseconds(60'000);

struct World {
  TempFolder temp;
  std::unique_ptr<EmbeddedTransport> transport = Must(EmbeddedTransport::Open(temp.Sub("bus")));

  explicit World(uint32_t partitions = 1) { Must(transport->CreateTopic("questions", partitions)); }
};

events::Event Question(const std::string& data, const std::string& id = "") {
  events::EventView view;
  view.type = "test.asked.v1";
  view.id = id;
  view.data = data;
  return events::Event(view);
}

events::Event Answer(const std::string& data) {
  events::EventView view;
  view.type = "test.answered.v1";
  view.data = data;
  return events::Event(view);
}

Result<events::Event> Echo(const events::EventView& request) {
  return Answer("re: " + std::string(request.data));
}

ResponderOptions Questions() {
  ResponderOptions options;
  options.topic = "questions";
  options.source = "test/responder";
  return options;
}

AskOptions Within(milliseconds timeout) {
  AskOptions options;
  options.timeout = timeout;
  return options;
}

// A request as any CloudEvents client may send it.
struct RawRequest {
  std::string id = "raw";
  std::string source = "//client";
  std::string data = "raw";
  std::string reply_to = "leat.replies.client";
  std::string expiry = core::FormatTime(core::SystemClock().NowUs() + 60'000'000);
};
events::Event Raw(const RawRequest& raw) {
  events::EventView view;
  view.type = "test.asked.v1";
  view.id = raw.id;
  view.source = raw.source;
  view.data = raw.data;
  if (!raw.reply_to.empty()) view.extensions.emplace_back(kReplyToAttribute, raw.reply_to);
  if (!raw.expiry.empty()) view.extensions.emplace_back(kExpiryTimeAttribute, raw.expiry);
  return events::Event(view);
}

// Waits for so many events of a topic, and gives all there are by then.
std::vector<events::Event> WaitFor(bus::Transport& transport, const std::string& topic,
                                   size_t count) {
  std::vector<events::Event> out;
  auto subscription = Must(transport.Subscribe(topic, 0, 0));
  bus::MessageBatch batch;
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    bus::PollLimits limits;
    if (out.size() >= count) limits.timeout = milliseconds(0);
    Must(subscription->Poll(limits, &batch));
    if (out.size() >= count && batch.messages.empty()) break;
    for (const auto& message : batch.messages) out.emplace_back(message.event);
  }
  REQUIRE(out.size() >= count);
  return out;
}

// Lets nothing through until it is opened.
class Gate {
 public:
  void Open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void Pass() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait_for(lock, kPatience, [&] { return open_; });
  }
  void WaitArrived(int count) {
    std::unique_lock lock(mutex_);
    REQUIRE(changed_.wait_for(lock, kPatience, [&] { return arrived_ >= count; }));
  }
  int arrived() {
    std::lock_guard lock(mutex_);
    return arrived_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int arrived_ = 0;
};

TEST_CASE("a request is answered") {
  World world;
  const auto responder = Must(Responder::Start(world.transport.get(), Questions(), Echo));
  const auto requester = Must(Requester::Open(world.transport.get(), "one"));
  CHECK(requester->reply_topic() == "leat.replies.one");
  events::EventView asked;
  asked.type = "test.asked.v1";
  asked.id = "q-1";
  asked.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  asked.extensions = {{"tenant", "x"}, {"replyto", "leat.replies.somebody-else"}};
  asked.data = "hello";
  const auto reply = Must(requester->Ask("questions", events::Event(asked), Within(kLong)));
  CHECK(reply.view().type == "test.answered.v1");
  CHECK(reply.view().data == "re: hello");
  CHECK(reply.view().correlationid == "q-1");
  CHECK(reply.view().causationid == "q-1");
  CHECK(reply.view().traceparent == asked.traceparent);
  CHECK(reply.view().source == "test/responder");
  CHECK_FALSE(reply.view().id.empty());
  CHECK(reply.view().time_us > 0);
  // As it lay on the topic.
  const auto request = WaitFor(*world.transport, "questions", 1)[0];
  CHECK(request.view().source == "leat.replies.one");
  CHECK(request.view().time_us > 0);
  std::map<std::string, std::string> extensions;
  for (const auto& [name, text] : request.view().extensions) extensions[std::string(name)] = text;
  CHECK(extensions.size() == 3);
  CHECK(extensions["tenant"] == "x");
  CHECK(extensions["replyto"] == "leat.replies.one");
  const auto expiry = Must(core::ParseTime(extensions["expirytime"]));
  CHECK(expiry - request.view().time_us == 60'000'000);
  // Without an id it is given one.
  CHECK(Must(requester->Ask("questions", Question("again"), Within(kLong))).view().data ==
        "re: again");
}

TEST_CASE("many at a time, each with its own answer") {
  World world(3);
  std::vector<std::unique_ptr<Responder>> responders;
  for (uint32_t partition = 0; partition < 3; ++partition) {
    auto options = Questions();
    options.partition = partition;
    responders.push_back(Must(Responder::Start(world.transport.get(), options, Echo)));
  }
  const auto requester = Must(Requester::Open(world.transport.get(), "one"));
  constexpr int kRequests = 500;
  std::atomic<int> wrong{0};
  std::latch left(kRequests);
  for (int i = 0; i < kRequests; ++i) {
    AskOptions options = Within(kLong);
    if (i % 2 == 0) options.partition = static_cast<uint32_t>(i % 3);
    requester->AskAsync("questions", Question(std::to_string(i)), options,
                        [&, i](const Result<events::Event>& reply) {
                          if (!reply || reply->view().data != "re: " + std::to_string(i)) ++wrong;
                          left.count_down();
                        });
  }
  left.wait();
  CHECK(wrong == 0);
}

TEST_CASE("an error comes back as it was") {
  World world;
  const auto responder = Must(Responder::Start(
      world.transport.get(), Questions(), [](const events::EventView&) -> Result<events::Event> {
        return Fail(ErrorClass::kConflict, "account x is closed \xff\xc3\xa4 \xed\xa0\x80",
                    "open it");
      }));
  const auto requester = Must(Requester::Open(world.transport.get(), "one"));
  const auto reply = requester->Ask("questions", Question("?"), Within(kLong));
  CHECK(ClassOf(reply) == ErrorClass::kConflict);
  CHECK(reply.error().message == "account x is closed ?\xc3\xa4 ???");
  CHECK(reply.error().remedy == "open it");
  const auto published = WaitFor(*world.transport, "leat.replies.one", 1)[0];
  CHECK(published.view().type == events::kRequestFailed);
}

TEST_CASE("without an answer the error names topic and deadline, and the request was repeated") {
  World world;
  const auto requester = Must(Requester::Open(world.transport.get(), "one"));
  const auto begun = std::chrono::steady_clock::now();
  const auto reply = requester->Ask("questions", Question("?", "q"), Within(milliseconds(3000)));
  const auto took = std::chrono::steady_clock::now() - begun;
  CHECK(ClassOf(reply) == ErrorClass::kUnavailable);
  CHECK(reply.error().Text().find("questions") != std::string::npos);
  CHECK(reply.error().Text().find("3000 ms") != std::string::npos);
  CHECK(took >= milliseconds(3000));
  CHECK(took < kPatience);
  // At 0, 0.5 and 1.5 s, or later; the fourth would be at 3.5 s.
  const auto asked = WaitFor(*world.transport, "questions", 2);
  CHECK(asked.size() <= 3);
  test::CheckSame(asked[0].view(), asked[1].view());
}

TEST_CASE("what cannot be asked is refused at once") {
  World world;
  Must(world.transport->CreateTopic("owned", 1, {.owner = "ledger"}));
  const auto requester = Must(Requester::Open(world.transport.get(), "one"));
  const auto ask = [&](const std::string& topic, const AskOptions& options = Within(kLong)) {
    return requester->Ask(topic, Question("?"), options);
  };
  CHECK(ClassOf(ask("nowhere")) == ErrorClass::kNotFound);
  AskOptions other = Within(kLong);
  other.partition = 7;
  CHECK(ClassOf(ask("questions", other)) == ErrorClass::kNotFound);
  CHECK(ClassOf(ask("owned")) == ErrorClass::kConflict);
  other.partition = 0;
  CHECK(ClassOf(ask("owned", other)) == ErrorClass::kConflict);
  CHECK(ClassOf(ask("questions", Within(milliseconds(0)))) == ErrorClass::kInvalid);
  CHECK(ClassOf(ask("questions", Within(kRequestTimeoutMax + milliseconds(1)))) ==
        ErrorClass::kInvalid);
  CHECK(ClassOf(requester->Ask("questions",
                               Question("?", std::string(events::kAttributeBytesMax + 1, 'x')))) ==
        ErrorClass::kInvalid);
  for (const char* name : {"", "1", "a.b", "a b", "-a"}) {
    CHECK(ClassOf(Requester::Open(world.transport.get(), name)) == ErrorClass::kInvalid);
  }
  CHECK(Must(world.transport->End("questions", 0)).offset == 0);
  CHECK(Must(world.transport->End("owned", 0)).offset == 0);
}

TEST_CASE("an id is under way once, and requests under way are bounded") {
  World world;
  const auto requester = Must(Requester::Open(world.transport.get(), "one"));
  std::atomic<size_t> ended{0};
  const auto count = [&](const Result<events::Event>&) { ++ended; };
  requester->AskAsync("questions", Question("?", "same"), Within(kLong), count);
  CHECK(ClassOf(requester->Ask("questions", Question("?", "same"))) == ErrorClass::kConflict);
  for (size_t i = 1; i < kRequestsInFlightMax; ++i) {
    requester->AskAsync("questions", Question("?"), Within(kLong), count);
  }
  CHECK(ended == 0);
  CHECK(ClassOf(requester->Ask("questions", Question("?"))) == ErrorClass::kExhausted);
  requester->Stop();
  CHECK(ended == kRequestsInFlightMax);
}

TEST_CASE("two requesters, and each gets what it asked") {
  World world;
  const auto responder = Must(Responder::Start(world.transport.get(), Questions(), Echo));
  const auto one = Must(Requester::Open(world.transport.get(), "one"));
  const auto two = Must(Requester::Open(world.transport.get(), "two"));
  const auto ask = [&](Requester* requester, const std::string& prefix) {
    for (int i = 0; i < 50; ++i) {
      // The same ids at the same time: their sources differ.
      const auto reply = Must(
          requester->Ask("questions", Question(prefix + std::to_string(i), "q" + std::to_string(i)),
                         Within(kLong)));
      CHECK(reply.view().data == "re: " + prefix + std::to_string(i));
    }
  };
  std::jthread other([&] { ask(two.get(), "two "); });
  ask(one.get(), "one ");
  other.join();
  // One that took long was asked, and answered, once more.
  for (const std::string name : {"one", "two"}) {
    std::set<std::string> answered;
    for (const auto& reply : WaitFor(*world.transport, "leat.replies." + name, 50)) {
      CHECK(reply.view().data.starts_with("re: " + name));
      answered.emplace(reply.view().correlationid);
    }
    CHECK(answered.size() == 50);
  }
}

TEST_CASE("late and foreign replies, and what is no reply, are passed over") {
  World world;
  Gate gate;
  const auto responder = Must(
      Responder::Start(world.transport.get(), Questions(), [&](const events::EventView& request) {
        if (request.data == "slow") gate.Pass();
        return Echo(request);
      }));
  const auto requester = Must(Requester::Open(world.transport.get(), "one"));
  CHECK(ClassOf(requester->Ask("questions", Question("slow", "q"), Within(milliseconds(200)))) ==
        ErrorClass::kUnavailable);
  // Where it had expired before it was looked at, it is worked on now; else it is under way already.
  RawRequest raw;
  raw.id = "q";
  raw.data = "slow";
  raw.source = raw.reply_to = "leat.replies.one";
  Must(world.transport->Publish("questions", {Raw(raw)}));
  gate.WaitArrived(1);
  const auto publish = [&](const std::string& correlation, std::string_view type,
                           const std::string& data) {
    events::EventView view;
    view.type = type;
    view.id = "foreign";
    view.correlationid = correlation;
    view.data = data;
    Must(world.transport->PublishTo("leat.replies.one", 0, {events::Event(view)}));
  };
  publish("", "test.answered.v1", "of nothing");
  publish("unknown", "test.answered.v1", "of another one");
  gate.Open();
  WaitFor(*world.transport, "leat.replies.one", 3);  // the late one is there
  CHECK(Must(requester->Ask("questions", Question("next"), Within(kLong))).view().data ==
        "re: next");
  // An error that cannot be read is one, too.
  Must(world.transport->CreateTopic("silent", 1));
  std::jthread forger([&] {
    WaitFor(*world.transport, "silent", 1);
    publish("f", events::kRequestFailed, "\xff\xff");
  });
  CHECK(ClassOf(requester->Ask("silent", Question("?", "f"), Within(kLong))) ==
        ErrorClass::kInternal);
}

TEST_CASE("a requester reads what comes from now on") {
  World world;
  {
    const auto requester = Must(Requester::Open(world.transport.get(), "one"));
    CHECK_FALSE(requester->Ask("questions", Question("?", "q"), Within(milliseconds(50))));
  }
  // The answer to the one of before comes while nobody is there.
  {
    const auto responder = Must(Responder::Start(world.transport.get(), Questions(), Echo));
    RawRequest raw;
    raw.id = "q";
    raw.source = "leat.replies.one";
    raw.reply_to = "leat.replies.one";
    raw.data = "old";
    Must(world.transport->Publish("questions", {Raw(raw)}));
    WaitFor(*world.transport, "leat.replies.one", 1);
  }
  const auto requester = Must(Requester::Open(world.transport.get(), "one"));
  CHECK(ClassOf(requester->Ask("questions", Question("new", "q"), Within(milliseconds(100)))) ==
        ErrorClass::kUnavailable);
}

TEST_CASE("a responder that comes later answers what waits, and not what has expired") {
  World world;
  Must(world.transport->CreateTopic("leat.replies.client", 1));
  RawRequest raw;
  raw.id = "expired";
  raw.expiry = core::FormatTime(core::SystemClock().NowUs() - 1000);
  Must(world.transport->Publish("questions", {Raw(raw)}));
  raw.id = "of nobody";
  raw.expiry = {};  // who knows who has answered it
  Must(world.transport->Publish("questions", {Raw(raw)}));
  raw = {};
  raw.id = "waits";
  Must(world.transport->Publish("questions", {Raw(raw)}));
  const auto responder = Must(Responder::Start(world.transport.get(), Questions(), Echo));
  CHECK(WaitFor(*world.transport, "leat.replies.client", 1)[0].view().correlationid == "waits");
  // From now on one that does not expire is answered, too; what nobody can be told is not.
  for (const char* reply_to : {"", "questions", "leat.replies.a b", "leat.replies.client"}) {
    raw.id = "later " + std::string(reply_to);
    raw.reply_to = reply_to;
    raw.expiry = std::string(reply_to).empty() ? "noon" : "";
    Must(world.transport->Publish("questions", {Raw(raw)}));
  }
  const auto replies = WaitFor(*world.transport, "leat.replies.client", 2);
  CHECK(replies.size() == 2);
  CHECK(replies[1].view().correlationid == "later leat.replies.client");
  Must(responder->error());
}

TEST_CASE("a responder looks back only so far") {
  World world;
  Must(world.transport->CreateTopic("leat.replies.client", 1));
  std::vector<events::Event> requests;
  RawRequest raw;
  for (uint64_t i = 0; i <= kRequestsLookBackMax; ++i) {
    raw.id = std::to_string(i);
    requests.push_back(Raw(raw));
  }
  Must(world.transport->Publish("questions", requests));
  {
    const auto responder = Must(Responder::Start(world.transport.get(), Questions(), Echo));
    const auto replies = WaitFor(*world.transport, "leat.replies.client", kRequestsLookBackMax);
    CHECK(replies.size() == kRequestsLookBackMax);
    std::set<std::string> ids;
    for (const auto& reply : replies) ids.emplace(reply.view().correlationid);
    CHECK(ids.size() == kRequestsLookBackMax);
    CHECK_FALSE(ids.contains("0"));
  }
  auto options = Questions();
  options.from = 0;
  const auto responder = Must(Responder::Start(world.transport.get(), options, Echo));
  WaitFor(*world.transport, "leat.replies.client", 2 * kRequestsLookBackMax + 1);
}

TEST_CASE("a request that is repeated is worked on once") {
  World world;
  Must(world.transport->CreateTopic("leat.replies.client", 1));
  Gate gate;
  std::atomic<int> handled{0};
  const auto responder = Must(
      Responder::Start(world.transport.get(), Questions(), [&](const events::EventView& request) {
        ++handled;
        if (request.data == "slow") gate.Pass();
        return Echo(request);
      }));
  RawRequest raw;
  raw.data = "slow";
  Must(world.transport->Publish("questions", {Raw(raw)}));
  gate.WaitArrived(1);
  // While it is being worked on, and afterwards.
  Must(world.transport->Publish("questions", {Raw(raw), Raw(raw)}));
  RawRequest other;
  other.id = "other";
  other.data = "quick";
  Must(world.transport->Publish("questions", {Raw(other)}));
  CHECK(WaitFor(*world.transport, "leat.replies.client", 1)[0].view().correlationid == "other");
  CHECK(handled == 2);
  gate.Open();
  CHECK(WaitFor(*world.transport, "leat.replies.client", 2).size() == 2);
  Must(world.transport->Publish("questions", {Raw(raw)}));
  const auto replies = WaitFor(*world.transport, "leat.replies.client", 3);
  test::CheckSame(replies[1].view(), replies[2].view());
  CHECK(handled == 2);
  // The same id of another source is another request.
  raw.source = "//other";
  Must(world.transport->Publish("questions", {Raw(raw)}));
  WaitFor(*world.transport, "leat.replies.client", 4);
  CHECK(handled == 3);
}

TEST_CASE("a requester that repeats does not double the work") {
  World world;
  Gate gate;
  std::atomic<int> handled{0};
  const auto responder = Must(
      Responder::Start(world.transport.get(), Questions(), [&](const events::EventView& request) {
        ++handled;
        gate.Pass();
        return Echo(request);
      }));
  const auto requester = Must(Requester::Open(world.transport.get(), "one"));
  std::jthread opener([&] {
    WaitFor(*world.transport, "questions", 2);  // it was repeated
    gate.Open();
  });
  CHECK(Must(requester->Ask("questions", Question("?"), Within(kLong))).view().data == "re: ?");
  CHECK(handled == 1);
}

TEST_CASE("an answer that was an error for the moment is worked out anew") {
  World world;
  Must(world.transport->CreateTopic("leat.replies.client", 1));
  std::atomic<int> handled{0};
  const auto responder =
      Must(Responder::Start(world.transport.get(), Questions(),
                            [&](const events::EventView& request) -> Result<events::Event> {
                              if (++handled == 1) return Fail(ErrorClass::kUnavailable, "not yet");
                              return Echo(request);
                            }));
  Must(world.transport->Publish("questions", {Raw({})}));
  CHECK(WaitFor(*world.transport, "leat.replies.client", 1)[0].view().type ==
        events::kRequestFailed);
  Must(world.transport->Publish("questions", {Raw({})}));
  CHECK(WaitFor(*world.transport, "leat.replies.client", 2)[1].view().data == "re: raw");
}

TEST_CASE("who asks until it is available gets no answer that was an error for the moment") {
  World world;
  std::atomic<int> handled{0};
  const auto responder =
      Must(Responder::Start(world.transport.get(), Questions(),
                            [&](const events::EventView& request) -> Result<events::Event> {
                              if (request.data == "never" || ++handled < 4)
                                return Fail(ErrorClass::kUnavailable, "not yet");
                              if (request.data == "wrong") return Invalid("wrong");
                              return Echo(request);
                            }));
  const auto requester = Must(Requester::Open(world.transport.get(), "client"));
  auto options = Within(kPatience);
  options.until_available = true;
  const auto ask = [&](std::string_view data) {
    events::EventView view;
    view.type = "test.asked.v1";
    view.data = data;
    return requester->Ask("questions", events::Event(view), options);
  };
  CHECK(Must(ask("now")).view().data == "re: now");
  CHECK(handled == 4);
  CHECK(test::ClassOf(ask("wrong")) == ErrorClass::kInvalid);
  // The last answer says why, where there is time for one.
  Result<events::Event> late;
  options.timeout = milliseconds(300);
  do {
    late = ask("never");
    CHECK(test::ClassOf(late) == ErrorClass::kUnavailable);
    options.timeout *= 2;
  } while (late.error().message.find("not yet") == std::string::npos && options.timeout < kPatience);
  CHECK(late.error().message.find("not yet") != std::string::npos);
}

TEST_CASE("requests that wait are bounded in bytes, too") {
  World world;
  Must(world.transport->CreateTopic("leat.replies.client", 1));
  Gate gate;
  auto options = Questions();
  options.threads = 1;
  options.waiting_bytes_max = 100;  // one, with its extensions
  const auto responder =
      Must(Responder::Start(world.transport.get(), options, [&](const events::EventView& request) {
        gate.Pass();
        return Echo(request);
      }));
  RawRequest raw;
  raw.data = "abc";
  for (const char* id : {"0", "1", "2"}) {
    raw.id = id;
    Must(world.transport->Publish("questions", {Raw(raw)}));
    if (*id == '0') gate.WaitArrived(1);  // it does not wait any more
  }
  CHECK(WaitFor(*world.transport, "leat.replies.client", 1)[0].view().correlationid == "2");
  gate.Open();
  CHECK(WaitFor(*world.transport, "leat.replies.client", 3).size() == 3);
  Must(world.transport->Publish("questions", {Raw(raw)}));
  CHECK(WaitFor(*world.transport, "leat.replies.client", 4)[3].view().data == "re: abc");
}

TEST_CASE("a responder with too much to do says so") {
  World world;
  Must(world.transport->CreateTopic("leat.replies.client", 1));
  Gate gate;
  auto options = Questions();
  options.threads = 1;
  options.waiting_max = 2;
  const auto responder =
      Must(Responder::Start(world.transport.get(), options, [&](const events::EventView& request) {
        gate.Pass();
        return Echo(request);
      }));
  RawRequest raw;
  raw.id = "0";
  Must(world.transport->Publish("questions", {Raw(raw)}));
  gate.WaitArrived(1);
  for (const char* id : {"1", "2", "3"}) {
    raw.id = id;
    Must(world.transport->Publish("questions", {Raw(raw)}));
  }
  const auto refused = WaitFor(*world.transport, "leat.replies.client", 1)[0];
  CHECK(refused.view().correlationid == "3");
  v1::RequestFailed failed;
  REQUIRE(failed.ParseFromString(std::string(refused.view().data)));
  CHECK(failed.error_class() == "unavailable");
  CHECK(failed.message().find("questions") != std::string::npos);
  gate.Open();
  CHECK(WaitFor(*world.transport, "leat.replies.client", 4).size() == 4);
  // It was not remembered: asked again it is answered.
  Must(world.transport->Publish("questions", {Raw(raw)}));
  CHECK(WaitFor(*world.transport, "leat.replies.client", 5)[4].view().data == "re: raw");
}

TEST_CASE("replies are bounded") {
  World world;
  const auto responder = Must(
      Responder::Start(world.transport.get(), Questions(), [](const events::EventView& request) {
        return Answer(std::string(std::stoul(std::string(request.data)), 'x'));
      }));
  const auto requester = Must(Requester::Open(world.transport.get(), "one"));
  const auto ask = [&](size_t bytes) {
    return requester->Ask("questions", Question(std::to_string(bytes)), Within(kLong));
  };
  CHECK(Must(ask(kReplyBytesMax)).view().data.size() == kReplyBytesMax);
  CHECK(ClassOf(ask(kReplyBytesMax + 1)) == ErrorClass::kExhausted);
  // More replies than are kept: the oldest are forgotten.
  for (int i = 0; i < 20; ++i) Must(ask(kReplyBytesMax));
  // One of a service that does not keep to it.
  Must(world.transport->CreateTopic("silent", 1));
  std::jthread other([&] {
    WaitFor(*world.transport, "silent", 1);
    events::EventView view;
    view.type = "test.answered.v1";
    view.correlationid = "big";
    const std::string data(kReplyBytesMax + 1, 'x');
    view.data = data;
    Must(world.transport->PublishTo("leat.replies.one", 0, {events::Event(view)}));
  });
  CHECK(ClassOf(requester->Ask("silent", Question("", "big"), Within(kLong))) ==
        ErrorClass::kExhausted);
}

// As a broker gives what is no event.
class WithProblems final : public test::ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;
  Result<std::unique_ptr<bus::Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                       uint64_t offset) override {
    LEAT_ASSIGN(auto inner, inner_->Subscribe(topic, partition, offset));
    return std::make_unique<Marking>(std::move(inner));
  }

 private:
  class Marking final : public bus::Subscription {
   public:
    explicit Marking(std::unique_ptr<bus::Subscription> inner) : inner_(std::move(inner)) {}
    Status Poll(const bus::PollLimits& limits, bus::MessageBatch* batch) override {
      LEAT_TRY(inner_->Poll(limits, batch));
      for (auto& message : batch->messages) {
        if (message.event.type == "test.broken.v1") message.problem = "it is broken";
      }
      return {};
    }
    void Seek(uint64_t offset) override { inner_->Seek(offset); }
    void Wake() override { inner_->Wake(); }

   private:
    const std::unique_ptr<bus::Subscription> inner_;
  };
};

TEST_CASE("what is no event goes to the dead letters, and the next request is answered") {
  World world;
  WithProblems transport(world.transport.get());
  const auto responder = Must(Responder::Start(&transport, Questions(), Echo));
  const auto requester = Must(Requester::Open(&transport, "one"));
  test::EventParts broken;
  broken.type = "test.broken.v1";
  broken.data = "original bytes";
  Must(world.transport->Publish("questions", {test::MakeEvent(broken)}));
  Must(world.transport->Publish("leat.replies.one", {test::MakeEvent(broken)}));
  CHECK(Must(requester->Ask("questions", Question("?"), Within(kLong))).view().data == "re: ?");
  const auto letter = WaitFor(*world.transport, "questions.dead", 1)[0];
  v1::DeadLettered dead;
  REQUIRE(dead.ParseFromString(std::string(letter.view().data)));
  CHECK(dead.data() == "original bytes");
  CHECK(dead.problem() == "it is broken");
  // Nobody minds what is on a topic of replies.
  CHECK_FALSE(world.transport->End("leat.replies.one.dead", 0));
}

// A broker that goes away, and one whose retention has passed by.
class Away final : public test::ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;
  std::atomic<bool> away{false};
  std::atomic<bool> frozen{false};
  std::atomic<bool> gone{false};
  std::atomic<int> refused{0};

  Result<std::unique_ptr<bus::Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                       uint64_t offset) override {
    LEAT_ASSIGN(auto inner, inner_->Subscribe(topic, partition, offset));
    return std::make_unique<Failing>(this, std::move(inner));
  }
  Status PublishTo(std::string_view topic, uint32_t partition,
                   const std::vector<events::Event>& events) override {
    if (away) {
      ++refused;
      refused.notify_all();
      return Fail(ErrorClass::kUnavailable, "the broker is away");
    }
    while (frozen) frozen.wait(true);
    return inner_->PublishTo(topic, partition, events);
  }

 private:
  class Failing final : public bus::Subscription {
   public:
    Failing(Away* transport, std::unique_ptr<bus::Subscription> inner)
        : transport_(transport), inner_(std::move(inner)) {}
    Status Poll(const bus::PollLimits& limits, bus::MessageBatch* batch) override {
      batch->Clear();
      if (transport_->away) return Fail(ErrorClass::kUnavailable, "the broker is away");
      if (transport_->gone.exchange(false)) {
        return Fail(ErrorClass::kNotFound, "the offset is gone");
      }
      return inner_->Poll(limits, batch);
    }
    void Seek(uint64_t offset) override { inner_->Seek(offset); }
    void Wake() override { inner_->Wake(); }

   private:
    Away* const transport_;
    const std::unique_ptr<bus::Subscription> inner_;
  };
};

TEST_CASE("a broker that is away for a while") {
  World world;
  Away transport(world.transport.get());
  const auto responder = Must(Responder::Start(&transport, Questions(), Echo));
  const auto requester = Must(Requester::Open(&transport, "one"));
  transport.away = true;
  const auto reply = requester->Ask("questions", Question("?"), Within(milliseconds(300)));
  CHECK(ClassOf(reply) == ErrorClass::kUnavailable);
  CHECK(reply.error().Text().find("the broker is away") != std::string::npos);
  std::jthread comes_back([&, before = transport.refused.load()] {
    transport.refused.wait(before);
    transport.away = false;
  });
  CHECK(Must(requester->Ask("questions", Question("!"), Within(kLong))).view().data == "re: !");
  // What the retention took is gone; the next request is answered all the same.
  transport.gone = true;
  CHECK(Must(requester->Ask("questions", Question("1"), Within(kLong))).view().data == "re: 1");
  transport.gone = true;
  CHECK(Must(requester->Ask("questions", Question("2"), Within(kLong))).view().data == "re: 2");
  Must(responder->error());
}

TEST_CASE("a deadline holds while the broker does not answer a publish") {
  World world;
  Away transport(world.transport.get());
  const auto requester = Must(Requester::Open(&transport, "one"));
  transport.frozen = true;
  CHECK(ClassOf(requester->Ask("questions", Question("?"), Within(milliseconds(100)))) ==
        ErrorClass::kUnavailable);
  transport.frozen = false;
  transport.frozen.notify_all();
}

TEST_CASE("requests under way are bounded in bytes") {
  World world;
  Away transport(world.transport.get());
  const auto requester = Must(Requester::Open(&transport, "one"));
  transport.frozen = true;
  std::atomic<size_t> ended{0};
  std::atomic<int> exhausted{0};
  const auto large = Question(std::string(events::kDataBytesMax, 'x'));
  // What stands beside the data counts, too.
  constexpr size_t kFit = kRequestsInFlightBytesMax / events::kDataBytesMax - 1;
  for (size_t i = 0; i <= kFit; ++i) {
    requester->AskAsync("questions", large, Within(kLong), [&](const Result<events::Event>& reply) {
      if (ClassOf(reply) == ErrorClass::kExhausted) ++exhausted;
      ++ended;
    });
    CHECK(exhausted == (i < kFit ? 0 : 1));
  }
  requester->Stop();
  CHECK(ended == kFit + 1);
  transport.frozen = false;
  transport.frozen.notify_all();
}

TEST_CASE("who asks never waits for a broker that takes nothing") {
  World world;
  Away transport(world.transport.get());
  auto requester = Must(Requester::Open(&transport, "one"));
  transport.frozen = true;
  // Requests that are late leave their place to others, and stay in line to be published.
  constexpr uint64_t kAsked = 3 * kRequestsInFlightMax;
  std::atomic<uint64_t> ended{0}, refused{0};
  for (uint64_t asked = 0; asked < kAsked;) {
    const uint64_t before = ended;
    bool taken = true;
    requester->AskAsync("questions", Question("?"), Within(milliseconds(1)),
                        [&](const Result<events::Event>& reply) {
                          if (ClassOf(reply) == ErrorClass::kExhausted) ++refused;
                          ++ended;
                          ended.notify_all();
                        });
    if (refused > 0) {
      refused = 0;
      taken = false;
      ended.wait(before + 1);
    }
    asked += taken ? 1 : 0;
  }
  requester->Stop();
  transport.frozen = false;
  transport.frozen.notify_all();
  requester.reset();
  CHECK(ended >= kAsked);
}

TEST_CASE("who waits is told when it stops") {
  World world;
  const auto requester = Must(Requester::Open(world.transport.get(), "one"));
  std::jthread stopper([&] {
    WaitFor(*world.transport, "questions", 1);
    requester->Stop();
  });
  const auto reply = requester->Ask("questions", Question("?"), Within(kLong));
  CHECK(ClassOf(reply) == ErrorClass::kUnavailable);
  CHECK(reply.error().Text().find("stopping") != std::string::npos);
  CHECK(ClassOf(requester->Ask("questions", Question("?"), Within(kLong))) ==
        ErrorClass::kUnavailable);
}

TEST_CASE(
    "a responder ends with its handlers, and what waits behind them is answered by the next") {
  World world;
  Must(world.transport->CreateTopic("leat.replies.client", 1));
  Gate gate;
  auto options = Questions();
  options.threads = 1;
  auto responder =
      Must(Responder::Start(world.transport.get(), options, [&](const events::EventView& request) {
        gate.Pass();
        return Echo(request);
      }));
  RawRequest raw;
  Must(world.transport->Publish("questions", {Raw(raw)}));
  gate.WaitArrived(1);
  raw.id = "behind";
  Must(world.transport->Publish("questions", {Raw(raw)}));
  std::jthread opener([&] { gate.Open(); });
  responder.reset();
  const auto replies = WaitFor(*world.transport, "leat.replies.client", 1);
  CHECK(replies[0].view().correlationid == "raw");
  const auto next = Must(Responder::Start(world.transport.get(), Questions(), Echo));
  // The first one again, for nobody knows that it was answered.
  const auto all = WaitFor(*world.transport, "leat.replies.client", replies.size() + 2);
  CHECK(std::any_of(all.begin(), all.end(),
                    [](const auto& one) { return one.view().correlationid == "behind"; }));
}

}  // namespace
}  // namespace leat::runtime
