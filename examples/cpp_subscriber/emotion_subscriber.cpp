// Prints the leading label of each assessed person, and says when the node stops working.
#include <cstdio>
#include <memory>

#include "emotion_perception_msgs/msg/person_emotion_array.hpp"
#include "rclcpp/rclcpp.hpp"

using emotion_perception_msgs::msg::PersonEmotion;
using emotion_perception_msgs::msg::PersonEmotionArray;

class EmotionSubscriber : public rclcpp::Node
{
public:
  EmotionSubscriber()
  : Node("emotion_subscriber")
  {
    // Twice the heartbeat of the node. The subscription does not match a publisher that promises
    // less, such as a player of a bag: leave out the liveliness there.
    const rclcpp::Duration lease = rclcpp::Duration::from_seconds(2.0);
    rclcpp::QoS qos(10);
    qos.liveliness(rclcpp::LivelinessPolicy::ManualByTopic).liveliness_lease_duration(lease);
    rclcpp::SubscriptionOptions options;
    options.event_callbacks.liveliness_callback = [](auto & event) {
        std::printf("the emotion node %s\n", event.alive_count ? "works" : "hangs or is gone");
      };
    subscription_ = create_subscription<PersonEmotionArray>(
      "emotion_node/emotions", qos, [](const PersonEmotionArray & people) {print(people);},
      options);
  }

private:
  static void print(const PersonEmotionArray & people)
  {
    if (people.source_status != PersonEmotionArray::LIVE) {
      return;  // every estimate is EXPIRED, and an empty list does not mean that no person is there
    }
    for (const PersonEmotion & person : people.people) {
      if (person.status == PersonEmotion::ASSESSED) {
        std::printf("%s %s %.2f\n", person.person_id.c_str(), person.label.c_str(), person.confidence);
      }
    }
  }

  rclcpp::Subscription<PersonEmotionArray>::SharedPtr subscription_;
};

int main(int argc, char ** argv)
{
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<EmotionSubscriber>());
  rclcpp::shutdown();
}
