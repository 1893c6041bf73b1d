"""What sources of tasks share: how hard a task is."""
