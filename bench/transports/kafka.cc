// Publishing to Kafka and reading from it, beside a bare loop on librdkafka with the same settings
// in the same run.
//
// usage: bench_kafka [BOOTSTRAP=127.0.0.1:19092] [EVENTS=2000000] [bare] [headers] [ours] [read]
//        (deploy/kafka start; without a part all of them)
//
// Events carry 200 bytes of data, half of it text that is always the same and half of it random, and
// have their id as key: 100,000 different ones (messages that are all alike compress to nothing, and
// measure little but a copy). The bare messages (`bare`, by rd_kafka_produce_batch) have the same
// payloads and keys and nothing else: the difference is what an event's attributes cost. The second
// reference (`headers`, by rd_kafka_produceva, since the batch call takes no headers) has the same
// attributes as headers, copied from a list that is made once: what the library itself can do with an
// event. Each is measured five times in turns, and the medians are compared. What a slow reader takes of
// memory is only a question of topics that are larger: give it some millions of events. Exits with 1
// when a target is missed.
#include <librdkafka/rdkafka.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench/transports/targets.h"
#include "bus/kafka/kafka_transport.h"
#include "core/log.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kDataBytes = 200;
constexpr size_t kBatch = 500;           // messages of one call, bare
constexpr size_t kPublishEvents = 5000;  // events of one Publish
constexpr size_t kDifferent = 100'000;   // a multiple of that
constexpr int kPublishers = 2;
constexpr const char* kQuietTopic = "quiet";
constexpr int kRounds = 5;
constexpr const char* kType = "bench.happened.v1";
constexpr const char* kSource = "bench";
constexpr const char* kTimeText = "2017-07-14T02:40:00Z";

double Seconds(Clock::time_point begun) {
  return std::chrono::duration<double>(Clock::now() - begun).count();
}
double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::atomic<uint64_t> confirmed{0};
void OnReport(rd_kafka_t*, const rd_kafka_message_t* message, void*) {
  if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR) std::abort();
  ++confirmed;
}

// A producer with the settings of bus/kafka, its reports served by a thread.
class Producer {
 public:
  Producer(const std::string& servers, const std::string& topic) {
    char error[512];
    rd_kafka_conf_t* conf = rd_kafka_conf_new();
    const std::pair<const char*, std::string> settings[] = {
        {"bootstrap.servers", servers},
        {"enable.idempotence", "true"},
        {"acks", "all"},
        {"compression.codec", "lz4"},
        {"linger.ms", "0"},
        {"queue.buffering.max.messages", "1000000"},
        {"queue.buffering.max.kbytes", "262144"},
        {"socket.nagle.disable", "true"}};
    for (const auto& [name, value] : settings) {
      if (rd_kafka_conf_set(conf, name, value.c_str(), error, sizeof error) != RD_KAFKA_CONF_OK)
        std::abort();
    }
    rd_kafka_conf_set_dr_msg_cb(conf, OnReport);
    handle_ = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof error);
    topic_ = rd_kafka_topic_new(handle_, topic.c_str(), nullptr);
    // The first message of an idempotent producer waits for its id.
    confirmed = 0;
    rd_kafka_produce(topic_, 0, RD_KAFKA_MSG_F_COPY, nullptr, 0, nullptr, 0, nullptr);
    while (confirmed < 1) rd_kafka_poll(handle_, 10);
    confirmed = 0;
  }
  ~Producer() {
    rd_kafka_topic_destroy(topic_);
    rd_kafka_destroy(handle_);
  }
  // Messages a second of `send`, until the last report is there.
  template <typename Send>
  double Measure(uint64_t events, Send&& send) {
    const auto begun = Clock::now();
    std::jthread reports([&] {
      while (confirmed < events) rd_kafka_poll(handle_, 100);
    });
    send(handle_, topic_);
    reports.join();
    return static_cast<double>(events) / Seconds(begun);
  }

 private:
  rd_kafka_t* handle_;
  rd_kafka_topic_t* topic_;
};

// What is published, whoever publishes it.
struct Load {
  std::string id;
  std::string data;
};
std::vector<Load> MakeLoad() {
  std::mt19937_64 random(1);
  const std::string_view text =
      "{\"event\":\"MoneyTransferred\",\"currency\":\"EUR\",\"version\":1,\"source\":\"bench\",\"leg\":"
      "{\"account\":\"";
  std::vector<Load> load(kDifferent);
  for (auto& [id, data] : load) {
    char uuid[40];
    std::snprintf(uuid, sizeof uuid, "0190163d-8694-7%03x-a%03x-%012llx",
                  static_cast<unsigned>(random() & 0xfff), static_cast<unsigned>(random() & 0xfff),
                  static_cast<unsigned long long>(random() & 0xffffffffffff));
    id = uuid;
    data = text.substr(0, kDataBytes / 2);
    while (data.size() < kDataBytes) data += static_cast<char>(random());
  }
  return load;
}

double Bare(const std::string& servers, const std::string& topic, uint64_t events,
            const std::vector<Load>& load) {
  return Producer(servers, topic).Measure(events, [&](rd_kafka_t*, rd_kafka_topic_t* handle) {
    std::vector<rd_kafka_message_t> batch(kBatch);
    for (uint64_t sent = 0; sent < events;) {
      for (size_t i = 0; i < kBatch; ++i) {
        const Load& from = load[(sent + i) % kDifferent];
        rd_kafka_message_t& message = batch[i] = {};
        message.payload = const_cast<char*>(from.data.data());
        message.len = from.data.size();
        message.key = const_cast<char*>(from.id.data());
        message.key_len = from.id.size();
      }
      const int count = static_cast<int>(std::min<uint64_t>(kBatch, events - sent));
      int done = 0;
      while (done < count) {
        done += rd_kafka_produce_batch(handle, 0, RD_KAFKA_MSG_F_COPY, batch.data() + done,
                                       count - done);
        if (done < count) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      sent += static_cast<uint64_t>(count);
    }
  });
}

double WithHeaders(const std::string& servers, const std::string& topic, uint64_t events,
                   const std::vector<Load>& load) {
  const std::pair<const char*, const char*> attributes[] = {
      {"ce_specversion", "1.0"}, {"ce_type", kType},     {"ce_id", load[0].id.c_str()},
      {"ce_source", kSource},    {"ce_time", kTimeText}, {"content-type", "application/protobuf"}};
  rd_kafka_headers_t* made = rd_kafka_headers_new(std::size(attributes));
  for (const auto& [name, text] : attributes) rd_kafka_header_add(made, name, -1, text, -1);
  const double rate =
      Producer(servers, topic).Measure(events, [&](rd_kafka_t* producer, rd_kafka_topic_t* handle) {
        rd_kafka_vu_t parts[6] = {};
        parts[0].vtype = RD_KAFKA_VTYPE_RKT;
        parts[0].u.rkt = handle;
        parts[1].vtype = RD_KAFKA_VTYPE_PARTITION;
        parts[1].u.i32 = 0;
        parts[2].vtype = RD_KAFKA_VTYPE_KEY;
        parts[3].vtype = RD_KAFKA_VTYPE_VALUE;
        parts[4].vtype = RD_KAFKA_VTYPE_MSGFLAGS;
        parts[4].u.i = 0;
        parts[5].vtype = RD_KAFKA_VTYPE_HEADERS;
        for (uint64_t sent = 0; sent < events; ++sent) {
          const Load& from = load[sent % kDifferent];
          parts[2].u.mem = {const_cast<char*>(from.id.data()), from.id.size()};
          parts[3].u.mem = {const_cast<char*>(from.data.data()), from.data.size()};
          parts[5].u.headers = rd_kafka_headers_copy(made);
          while (rd_kafka_error_t* refused =
                     rd_kafka_produceva(producer, parts, std::size(parts))) {
            if (rd_kafka_error_code(refused) != RD_KAFKA_RESP_ERR__QUEUE_FULL) std::abort();
            rd_kafka_error_destroy(refused);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
          }
        }
      });
  rd_kafka_headers_destroy(made);
  return rate;
}

double Ours(leat::bus::KafkaTransport* transport, const std::string& topic, uint64_t events,
            const std::vector<Load>& load) {
  std::vector<std::vector<leat::events::Event>> batches(kDifferent / kPublishEvents);
  for (size_t i = 0; i < kDifferent; ++i) {
    leat::events::EventView view;
    view.type = kType;
    view.id = load[i].id;
    view.source = kSource;
    view.time_us = 1'500'000'000'000'000;
    view.data = load[i].data;
    batches[i / kPublishEvents].emplace_back(view);
  }
  if (!transport->Publish(topic, {batches[0].front()})) std::abort();
  std::atomic<uint64_t> left{events / kPublishEvents};
  const auto begun = Clock::now();
  {
    std::vector<std::jthread> publishers;
    for (int i = 0; i < kPublishers; ++i) {
      publishers.emplace_back([&] {
        for (;;) {
          const uint64_t now = left.load();
          if (now == 0) return;
          uint64_t expected = now;
          if (!left.compare_exchange_strong(expected, now - 1)) continue;
          if (auto done = transport->Publish(topic, batches[now % batches.size()]); !done) {
            std::fprintf(stderr, "%s\n", done.error().Text().c_str());
            std::abort();
          }
        }
      });
    }
  }
  return static_cast<double>(events / kPublishEvents * kPublishEvents) / Seconds(begun);
}

// What was measured is gone from the broker's disk.
void Delete(const std::string& servers, const std::string& topic) {
  char error[512];
  rd_kafka_conf_t* conf = rd_kafka_conf_new();
  rd_kafka_conf_set(conf, "bootstrap.servers", servers.c_str(), error, sizeof error);
  rd_kafka_t* handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof error);
  rd_kafka_queue_t* queue = rd_kafka_queue_new(handle);
  rd_kafka_DeleteTopic_t* request = rd_kafka_DeleteTopic_new(topic.c_str());
  rd_kafka_DeleteTopics(handle, &request, 1, nullptr, queue);
  if (rd_kafka_event_t* answer = rd_kafka_queue_poll(queue, 10'000)) rd_kafka_event_destroy(answer);
  rd_kafka_DeleteTopic_destroy(request);
  rd_kafka_queue_destroy(queue);
  rd_kafka_destroy(handle);
}

struct Rate {
  double wall = 0;  // events a second
  double cpu = 0;   // a second of the reading thread's processor time
};

Rate Read(leat::bus::KafkaTransport* transport, const std::string& topic, uint64_t events,
          std::chrono::nanoseconds work) {
  auto subscription = transport->Subscribe(topic, 0, 0);
  if (!subscription) std::abort();
  const auto used = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  };
  leat::bus::MessageBatch batch;
  leat::bus::PollLimits limits;
  uint64_t read = 0;
  Clock::time_point begun;
  double used_before = 0;
  while (read < events) {
    if (!(*subscription)->Poll(limits, &batch)) std::abort();
    if (read == 0) {
      begun = Clock::now();
      used_before = used();
    }
    for (size_t i = 0; i < batch.messages.size() && work.count() > 0; ++i) {
      const auto until = Clock::now() + work;
      while (Clock::now() < until) {
      }
    }
    read += batch.messages.size();
  }
  return {static_cast<double>(read) / Seconds(begun),
          static_cast<double>(read) / (used() - used_before)};
}

// Of this process, in MiB: what it has now, and the most since ForgetPeak.
struct Memory {
  double now = 0, peak = 0;
};
Memory MemoryMiB() {
  Memory memory;
  std::ifstream status("/proc/self/status");
  for (std::string name; status >> name;) {
    if (name == "VmHWM:") status >> memory.peak;
    if (name == "VmRSS:") status >> memory.now;
  }
  return {memory.now / 1024, memory.peak / 1024};
}
void ForgetPeak() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace

int main(int argc, char** argv) {
  leat::core::InitLog(leat::core::LogLevel::kError);
  const std::string servers = argc > 1 ? argv[1] : "127.0.0.1:19092";
  const uint64_t events = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 2'000'000;
  leat::bus::KafkaOptions options;
  options.properties["bootstrap.servers"] = servers;
  options.topic_prefix = "bench" + std::to_string(Clock::now().time_since_epoch().count()) + ".";
  auto transport = leat::bus::KafkaTransport::Open(options);
  if (!transport) {
    std::fprintf(stderr, "%s\n", transport.error().Text().c_str());
    return 1;
  }
  const std::vector<Load> load = MakeLoad();

  const auto wanted = [&](std::string_view part) {
    return argc <= 3 || std::find(argv + 3, argv + argc, part) != argv + argc;
  };
  const auto topic = [&](const std::string& name) {
    if (!(*transport)->CreateTopic(name, 1)) std::abort();
    return options.topic_prefix + name;
  };
  std::vector<double> bare, headers, ours;
  for (int i = 0; i < kRounds; ++i) {
    const std::string round = std::to_string(i);
    if (wanted("bare")) {
      bare.push_back(Bare(servers, topic("bare" + round), events, load));
      Delete(servers, options.topic_prefix + "bare" + round);
    }
    if (wanted("headers")) {
      headers.push_back(WithHeaders(servers, topic("headers" + round), events, load));
      Delete(servers, options.topic_prefix + "headers" + round);
    }
    topic("ours" + round);
    if (wanted("ours")) ours.push_back(Ours(transport->get(), "ours" + round, events, load));
    if (i > 0) Delete(servers, options.topic_prefix + "ours" + round);  // the first is read below
  }
  const auto median = [](const char* what, const std::vector<double>& rates) {
    if (rates.empty()) return;
    std::printf("%s: %.0f/s (", what, Median(rates));
    for (const double rate : rates) std::printf(" %.0f", rate);
    std::printf(" )\n");
  };
  median("bare loop on rd_kafka_produce_batch", bare);
  median("loop on rd_kafka_produceva with the same headers", headers);
  median("publish of 200 B events, reports awaited", ours);
  leat::bench::Targets targets;
  if (!ours.empty() && !headers.empty()) {
    std::printf("publish is %.2f of the loop with headers\n", Median(ours) / Median(headers));
  }
  if (!ours.empty() && !bare.empty()) {
    targets.AtLeast("publish, of the bare loop", Median(ours) / Median(bare), 0.85);
  }
  std::fflush(stdout);
  if (!wanted("read")) {
    Delete(servers, options.topic_prefix + "ours0");
    return targets.exit_code();
  }
  if (ours.empty()) Ours(transport->get(), "ours0", events, load);
  topic(kQuietTopic);
  std::vector<double> fast, slow, beside, alone;
  double taken = 0;
  const std::chrono::nanoseconds none(0), work(std::chrono::microseconds(3));
  for (int round = 0; round < kRounds; ++round) {
    const Rate rate = Read(transport->get(), "ours0", events, none);
    fast.push_back(rate.wall);
    alone.push_back(rate.cpu);
    ForgetPeak();
    const double before = MemoryMiB().now;
    slow.push_back(Read(transport->get(), "ours0", events, work).wall);
    taken = std::max(taken, MemoryMiB().peak - before);
    // What follows a quiet topic, too, has a request under way for that, which a full queue waits for.
    auto quiet = (*transport)->Subscribe(kQuietTopic, 0, 0);
    leat::bus::MessageBatch nothing;
    if (!quiet || !(*quiet)->Poll({.timeout = std::chrono::milliseconds(0)}, &nothing)) std::abort();
    beside.push_back(Read(transport->get(), "ours0", events, work).wall);
  }
  median("read by offset", fast);
  median("the same, a second of the reading thread's processor time", alone);
  median("read with 3 us of work an event", slow);
  median("the same, while a quiet topic is followed, too", beside);
  Delete(servers, options.topic_prefix + "ours0");
  targets.AtLeast("read with 3 us of work, of 333,000/s", Median(slow) * 3e-6, 0.9);
  targets.AtLeast("the same, beside a quiet topic", Median(beside) * 3e-6, 0.9);
  // 64 MiB of messages, what librdkafka keeps of each beside its bytes, and what is read ahead.
  targets.AtMost("memory that the slow reader takes, MiB", taken, 128);
  Delete(servers, options.topic_prefix + kQuietTopic);
  return targets.exit_code();
}
