"""The privileged side: forks VMs and containers, confines them, holds nothing of any tenant."""
