from setuptools import setup

setup(
    name="fiffdepth_ros",
    version="0.1.0",
    packages=["fiffdepth_ros"],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/fiffdepth_ros"]),
        ("share/fiffdepth_ros", ["package.xml"]),
        ("share/fiffdepth_ros/launch", ["launch/fiffdepth.launch.xml"]),
        ("share/fiffdepth_ros/config", ["config/fiffdepth.yaml", "config/nav2_voxel_layer.yaml"]),
    ],
    install_requires=["setuptools", "fiffdepth-rt"],
    entry_points={"console_scripts": ["fiffdepth = fiffdepth_ros.node:main"]},
)
