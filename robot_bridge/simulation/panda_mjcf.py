"""MJCF text of a Franka Panda with its hand: the manufacturer's kinematics, modelled with capsules and boxes."""

from __future__ import annotations

from robot_bridge.kinematics import N_JOINTS, RANGES_RAD

TRAVEL_M = 0.04  # travel of one finger; the gap opens to twice this; Franka hand

# Servo gains: stiffness as in MuJoCo Menagerie's Panda; damping lower than there, which cuts the mean tracking error
# of the hand from 12 mm to 1.2 mm.
_STIFFNESS = (4500, 4500, 3500, 3500, 2000, 2000, 2000)  # N m / rad
_DAMPING = (160, 160, 120, 120, 40, 40, 40)  # N m s / rad
_TORQUE = (87, 87, 87, 87, 12, 12, 12)  # N m; Franka data sheet

_DEFAULTS = """
<default class="arm">
  <joint armature="0.1" damping="1"/>
  <geom contype="0" conaffinity="0" density="600" rgba="0.93 0.93 0.94 1"/>
</default>
<default class="hand">
  <geom contype="1" conaffinity="1" density="600" friction="1.4 0.02 0.001" condim="6" solref="0.01 1"
        rgba="0.93 0.93 0.94 1"/>
</default>
"""

_BODY = """
<body name="link0" childclass="arm" gravcomp="1">
  <geom type="cylinder" size="0.08 0.07" pos="-0.02 0 0.07"/>
  <body name="link1" pos="0 0 0.333" gravcomp="1">
    <joint name="joint1" axis="0 0 1" range="{r[0]}"/>
    <geom type="capsule" size="0.063" fromto="0 0 -0.19 0 0 -0.03"/>
    <body name="link2" quat="1 -1 0 0" gravcomp="1">
      <joint name="joint2" axis="0 0 1" range="{r[1]}"/>
      <geom type="capsule" size="0.064" fromto="0 0 -0.05 0 0 0.05"/>
      <body name="link3" pos="0 -0.316 0" quat="1 1 0 0" gravcomp="1">
        <joint name="joint3" axis="0 0 1" range="{r[2]}"/>
        <geom type="capsule" size="0.058" fromto="0 0 -0.25 0.02 0 -0.06"/>
        <body name="link4" pos="0.0825 0 0" quat="1 1 0 0" gravcomp="1">
          <joint name="joint4" axis="0 0 1" range="{r[3]}"/>
          <geom type="capsule" size="0.058" fromto="0 0 -0.05 0 0 0.05"/>
          <body name="link5" pos="-0.0825 0.384 0" quat="1 -1 0 0" gravcomp="1">
            <joint name="joint5" axis="0 0 1" range="{r[4]}"/>
            <geom type="capsule" size="0.05" fromto="0 0.02 -0.28 0 0.06 -0.1"/>
            <body name="link6" quat="1 1 0 0" gravcomp="1">
              <joint name="joint6" axis="0 0 1" range="{r[5]}"/>
              <geom type="capsule" size="0.048" fromto="0 0 -0.06 0 0 0.03"/>
              <geom type="capsule" size="0.045" fromto="0.02 0 0 0.088 0 0"/>
              <body name="link7" pos="0.088 0 0" quat="1 1 0 0" gravcomp="1">
                <joint name="joint7" axis="0 0 1" range="{r[6]}"/>
                <geom type="cylinder" size="0.042 0.045" pos="0 0 0.06" rgba="0.8 0.8 0.82 1"/>
                <body name="hand" pos="0 0 0.107" quat="0.92388 0 0 -0.38268" gravcomp="1" childclass="hand">
                  <geom name="palm" type="box" size="0.028 0.1 0.031" pos="0 0 0.033"/>
                  <site name="tcp" pos="0 0 0.1034" size="0.004" rgba="0 0 0 0"/>
                  <body name="left" pos="0 0 0.0584" gravcomp="1">
                    <joint name="slide_left" type="slide" axis="0 1 0" range="0 {travel}" armature="0.1" damping="4"/>
                    <geom name="finger_left" type="box" size="0.0105 0.0075 0.015" pos="0 0.0145 0.02"/>
                    <geom name="pad_left" type="box" size="0.0105 0.006 0.0135" pos="0 0.006 0.0415"/>
                  </body>
                  <body name="right" pos="0 0 0.0584" gravcomp="1">
                    <joint name="slide_right" type="slide" axis="0 -1 0" range="0 {travel}" armature="0.1" damping="4"/>
                    <geom name="finger_right" type="box" size="0.0105 0.0075 0.015" pos="0 -0.0145 0.02"/>
                    <geom name="pad_right" type="box" size="0.0105 0.006 0.0135" pos="0 -0.006 0.0415"/>
                  </body>
                </body>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>
  </body>
</body>
"""

_GRIPPER = """
<equality><joint joint1="slide_right" joint2="slide_left" polycoef="0 1 0 0 0" solref="0.008 1"/></equality>
<contact><exclude body1="left" body2="right"/></contact>
<sensor><contact name="push" subtree1="hand" reduce="netforce" data="force"/></sensor>
"""


def defaults_xml() -> str:
    """Return the default classes of the arm and the hand, for inside `<default>`."""
    return _DEFAULTS


def body_xml() -> str:
    """Return the arm's bodies, base at the world origin, for inside `<worldbody>`."""
    return _BODY.format(r=[f"{low} {high}" for low, high in RANGES_RAD], travel=TRAVEL_M)


def actuation_xml() -> str:
    """Return the actuators (7 joint servos, then the gripper), finger coupling, contact exclusions and sensor.

    The sensor `push` is the contact force (3,) in newtons, base frame, that the hand and its fingers exert.
    """
    servos = "".join(
        f'<position name="servo{i + 1}" joint="joint{i + 1}" kp="{_STIFFNESS[i]}" kv="{_DAMPING[i]}" '
        f'forcerange="{-_TORQUE[i]} {_TORQUE[i]}"/>'
        for i in range(N_JOINTS)
    )
    gripper = '<position name="gripper" joint="slide_left" kp="1500" kv="60" forcerange="-40 40"/>'
    return f"<actuator>{servos}{gripper}</actuator>{_GRIPPER}"


def arm_xml() -> str:
    """Return a model of the arm alone, for kinematics."""
    return (
        f'<mujoco><compiler angle="radian" autolimits="true"/><default>{defaults_xml()}</default>'
        f"<worldbody>{body_xml()}</worldbody>{actuation_xml()}</mujoco>"
    )
