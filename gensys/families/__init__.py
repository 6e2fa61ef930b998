"""The few classes that are generative models; everything else is a part of one."""
