from connprobe.system.namespaces import identity
from netns import network_namespace


def test_each_network_namespace_has_a_name_of_its_own() -> None:
    home = identity("net")
    names = [home]
    for _ in range(5):  # the kernel gives the inode of one that is gone to the next
        with network_namespace():
            names.append(identity("net"))
            assert identity("net") == names[-1]
    assert len(set(names)) == 6
    assert identity("net") == home


def test_other_namespaces_are_named_as_proc_names_them() -> None:
    assert identity("uts").startswith("uts:[")
