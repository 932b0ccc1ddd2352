// Shared by the files of this folder: how handles of librdkafka are made, and its errors as ours.
// librdkafka's own header stays in the .cc files.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/result.h"

struct rd_kafka_AdminOptions_s;
struct rd_kafka_ConfigResource_s;
struct rd_kafka_NewTopic_s;
struct rd_kafka_conf_s;
struct rd_kafka_group_list;
struct rd_kafka_metadata;
struct rd_kafka_op_s;  // an rd_kafka_event_t
struct rd_kafka_queue_s;
struct rd_kafka_s;
struct rd_kafka_topic_partition_list_s;
struct rd_kafka_topic_s;

namespace leat::bus::kafka {

// librdkafka's objects with an owner, each destroyed as its kind demands.
struct Destroy {
  void operator()(rd_kafka_AdminOptions_s* options) const;
  void operator()(rd_kafka_ConfigResource_s* resource) const;
  void operator()(rd_kafka_NewTopic_s* topic) const;
  void operator()(rd_kafka_conf_s* conf) const;
  void operator()(const rd_kafka_group_list* groups) const;
  void operator()(const struct rd_kafka_metadata* metadata) const;
  void operator()(rd_kafka_op_s* event) const;
  void operator()(rd_kafka_queue_s* queue) const;
  void operator()(rd_kafka_s* handle) const;
  void operator()(rd_kafka_topic_partition_list_s* list) const;
  void operator()(rd_kafka_topic_s* topic) const;
};
template <typename T>
using Owned = std::unique_ptr<T, Destroy>;

using Properties = std::map<std::string, std::string>;
using Prepare = std::function<void(rd_kafka_conf_s*)>;

// A consumer with the transport's properties: our defaults, then these, then the user's; `prepare`
// sees the configuration last. The caller owns the handle. Errors: kInvalid (a property).
using MakeConsumer =
    std::function<Result<rd_kafka_s*>(const Properties& defaults, const Prepare& prepare)>;

// Of an rd_kafka_resp_err_t.
ErrorClass ClassOf(int error);
std::unexpected<Error> Broken(const std::string& what, int error, std::string remedy = {});

}  // namespace leat::bus::kafka
