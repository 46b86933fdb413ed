"""What nobody outlined yet: the objects of a clip that move by themselves, as seeds for a person to edit."""
