"""ROS messages -> photos, depth maps -> ROS messages, and bags of both. START HERE: frames.py.

    frames.py        an image -> all that is published for it, by a node or in a bag
    images.py        sensor_msgs/Image, CompressedImage -> photo; metres or relative depth -> Image
    cameras.py       CameraInfo -> intrinsics, and that of a resized image
    clouds.py        PointCloud2 -> points, and the way back
    transforms.py    where frames are: tf_static
    messages.py      what messages are made of: rosbags' classes, or those of a ROS installation
    bags.py          a bag is read; bag_writing.py: a copy of it, with more topics
    plan.py          what is to be done with a bag; metric.py: where its metres come from
    partial.py       what a killed run leaves; bag_result.py: depth and a bag -> the bag with depth

No ROS installation is needed. The functions read and write attributes by the names that ROS gives the
fields, so that they take rosbags' messages (the extra [robotics]) and rclpy's alike.

Convention: distances are metres along the optical axis z (REP-118), of the frame that the photo's header
names: x right, y down, z forward (REP-103). NaN is a pixel without a known distance (REP-117); in
millimetres, which are whole numbers, 0 is. A depth map without scale is never called depth: its topic ends
in `relative_depth`.
"""
