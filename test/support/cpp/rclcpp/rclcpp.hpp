// The part of rclcpp's interface that the C++ example uses, without behaviour: the example can be
// compiled against the headers of the messages where rclcpp is not installed.
#pragma once

#include <functional>
#include <memory>
#include <string>

namespace rclcpp
{

class Duration
{
public:
  static Duration from_seconds(double seconds);
};

enum class LivelinessPolicy {Automatic, ManualByTopic};

class QoS
{
public:
  explicit QoS(size_t depth);
  QoS & liveliness(LivelinessPolicy policy);
  QoS & liveliness_lease_duration(const Duration & duration);
};

struct QOSLivelinessChangedInfo
{
  int32_t alive_count;
};

struct SubscriptionOptions
{
  struct
  {
    std::function<void (QOSLivelinessChangedInfo &)> liveliness_callback;
  } event_callbacks;
};

template<typename MessageT>
struct Subscription
{
  using SharedPtr = std::shared_ptr<Subscription>;
};

class Node
{
public:
  explicit Node(const std::string & name);

  template<typename MessageT>
  std::shared_ptr<Subscription<MessageT>> create_subscription(
    const std::string & topic, const QoS & qos, std::function<void (const MessageT &)> callback,
    const SubscriptionOptions & options);
};

void init(int argc, char ** argv);
void spin(std::shared_ptr<Node> node);
bool shutdown();

}  // namespace rclcpp
