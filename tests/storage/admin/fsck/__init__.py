"""Tests of `storage.admin.fsck`."""
