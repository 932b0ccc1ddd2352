// Shared by the files of this folder: how handles of librdkafka are made, and its errors as ours.
// librdkafka's own header stays in the .cc files (kafka_owned.h is theirs).
#pragma once

#include <functional>
#include <map>
#include <string>

#include "core/result.h"

struct rd_kafka_s;
struct rd_kafka_conf_s;

namespace leat::bus::kafka {

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
