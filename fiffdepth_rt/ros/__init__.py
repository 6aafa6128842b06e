"""ROS messages -> photos, depth maps -> ROS messages, and bags of both. START HERE: images.py.

    images.py      sensor_msgs/Image, CompressedImage -> photo; metres or relative depth -> Image
    messages.py    what messages are made of: rosbags' classes, or those of a ROS installation

No ROS installation is needed. The functions read and write attributes by the names that ROS gives the
fields, so that they take rosbags' messages (the extra [robotics]) and rclpy's alike.

Convention: distances are metres along the optical axis z (REP-118), of the frame that the photo's header
names: x right, y down, z forward (REP-103). NaN is a pixel without a known distance (REP-117); in
millimetres, which are whole numbers, 0 is. A depth map without scale is never called depth: its topic ends
in `relative_depth`.
"""
