"""Points in the plane, and which questions about them help to learn which."""
