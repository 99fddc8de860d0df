"""The shipped profiles, whole or as far as a network namespace may write them."""

from connprobe.data import data_dir
from connprobe.plan.sysctl.file import Profile, parse_profile

SHIPPED = ("gigabit", "many-connections", "low-memory")


def shipped(name: str, *, of_a_namespace: bool = False) -> Profile:
    """A shipped profile; of_a_namespace: without the keys that every network namespace shares."""
    path = data_dir("sysctl.d") / f"{name}.conf"
    profile = parse_profile(name, str(path), path.read_bytes())
    if of_a_namespace:
        own = tuple(each for each in profile.assignments if each.key.startswith("net/"))
        return profile._replace(assignments=own)
    return profile
