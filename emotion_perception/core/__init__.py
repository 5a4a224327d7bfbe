"""The values, labels, interfaces, errors and settings that every other room builds on."""
