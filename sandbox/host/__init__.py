"""The trusted side: handles through which a server uses the launcher, its VMs and their containers."""
