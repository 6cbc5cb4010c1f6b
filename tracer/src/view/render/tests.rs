mod colours;
mod screens;
mod sizes;
